"""What `audit` found, in words."""

from __future__ import annotations

from epochal.comparison.audit import AuditCode
from epochal.report.text import Text
from epochal.results import NoteCode

TEXTS: dict[NoteCode, Text] = {
    AuditCode.AGREES: "the claim follows from its nats per token and the bytes of the text",
    AuditCode.CONSTANT_BYTES: (
        "the claim divides by a constant of {constant:.4g} bytes per token; the text has "
        "{measured:.4g}"
    ),
    AuditCode.NATS_FOR_BITS: "the claim is in nats per byte: the division by ln 2 is missing",
    AuditCode.PER_TOKEN: "the claim is in bits per token: the division by bytes is missing",
    AuditCode.MASKED_MEAN: (
        "the claim goes back to {nats:.4g} nats, the mean over masked tokens, which is not a "
        "bound: each masked token must weigh one over the masked share"
    ),
    AuditCode.CLIPPED: (
        "the claim clips the weights of masked tokens at {limit:g}, so it leaves out text that was "
        "masked little, and is not a bound"
    ),
    AuditCode.MISSING_TERMS: (
        "the claim leaves out {nats:.4g} nats per token of prior and reconstruction terms, so it "
        "is not a bound"
    ),
    AuditCode.UNEXPLAINED: "none of the usual mistakes gives the claimed number",
    AuditCode.ROOM_FOR_CLIPPING: (
        "for means over masked tokens and clipped weights give `by_noise`, the NLL by masked share"
    ),
}
