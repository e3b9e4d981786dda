"""Claims of known mistakes are told apart; a claim that holds is left alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from epochal.cli.main import main
from epochal.comparison.audit import Audit, AuditCode, Claim, audit
from epochal.errors import UserError
from epochal.report.text import describe

BYTES = 2.442
SHARES = np.linspace(0, 1, 41)
NLL = 1.5 + 4 * SHARES**0.7  # of masked tokens, by masked share
BOUND = 1.5 + 4 / 1.7
BY_NOISE = tuple(zip(SHARES.tolist(), NLL.tolist(), strict=True))
FINE = np.linspace(0, 1, 200_001)


def mean(weight):
    """\u222b weight(t) \u00b7 NLL(t) dt, apart from the code under test."""
    return float(np.mean(weight(FINE) * (1.5 + 4 * FINE**0.7)))


def bits(nats, size=BYTES):
    return nats / math.log(2) / size


@pytest.mark.parametrize(
    ("claimed", "known", "code"),
    [
        (bits(3.4172), {"nats_per_token": 3.4172}, AuditCode.AGREES),
        (bits(BOUND), {"by_noise": BY_NOISE}, AuditCode.AGREES),
        (bits(3.5), {"nats_per_token": 3.4, "missing_nats": 0.1}, AuditCode.AGREES),
        (bits(3.4172, 4.3), {"nats_per_token": 3.4172}, AuditCode.CONSTANT_BYTES),
        (3.0 / BYTES, {"nats_per_token": 3.0}, AuditCode.NATS_FOR_BITS),
        (bits(3.0, 1), {"nats_per_token": 3.0}, AuditCode.PER_TOKEN),
        (bits(mean(lambda t: 2 * t)), {"by_noise": BY_NOISE}, AuditCode.MASKED_MEAN),
        (bits(mean(lambda t: np.minimum(1, 5 * t))), {"by_noise": BY_NOISE}, AuditCode.CLIPPED),
        (bits(3.4), {"nats_per_token": 3.4, "missing_nats": 0.1}, AuditCode.MISSING_TERMS),
        (1.2345, {"nats_per_token": 3.0}, AuditCode.UNEXPLAINED),
    ],
)
def test_each_mistake_is_named(claimed, known, code):
    found = audit(Claim(bits_per_byte=claimed, bytes_per_token=BYTES, **known))
    assert found.explanations[0].code is code
    assert found.agrees == (code is AuditCode.AGREES)
    assert all(describe(one) for one in found.explanations)


def test_a_published_claim():
    """A constant of 4.3 bytes per token, where the same tokenizer's baseline log gives 2.442."""
    found = audit(Claim(bits_per_byte=1.1465, nats_per_token=3.4172, bytes_per_token=BYTES))
    assert found.bits_per_byte == pytest.approx(2.02, abs=0.005)
    assert found.explanations[0].values["constant"] == pytest.approx(4.3)


def test_the_clipping_is_found():
    claimed = bits(mean(lambda t: np.minimum(1, 5 * t)))
    found = audit(Claim(bits_per_byte=claimed, by_noise=BY_NOISE, bytes=BYTES * 1e6, tokens=1e6))
    assert found.explanations[0].values["limit"] == 5


def test_bytes_of_a_corpus(tiny_corpus, tmp_path, capsys):
    claim = {"bits_per_byte": 1.0, "nats_per_token": 2.0, "corpus": str(tiny_corpus)}
    (tmp_path / "claim.json").write_text(json.dumps(claim))
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(tmp_path / "claim.json"), "--json"])
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(Audit.__dataclass_fields__)
    assert 1 < found["bytes_per_token"] < 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a claim has"),
        ('{"nats_per_token": 3}', "bits_per_byte"),
        ('{"bits_per_byte": 1, "nats": 3}', "nats"),
        ('{"bits_per_byte": 1, "nats_per_token": 3}', "in one way"),
        ('{"bits_per_byte": 1, "nats_per_token": 3, "bytes": 3}', "in one way"),
        ('{"bits_per_byte": 1, "bytes_per_token": 3}', "by_noise"),
        ('{"bits_per_byte": 0, "nats_per_token": 3, "bytes_per_token": 3}', "positive"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "claim.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        audit(path)
    assert "\n" not in str(caught.value)
