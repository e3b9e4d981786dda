"""Text in, rows of token ids out."""

from epochal.data.corpus import RawCorpus
from epochal.data.describe import Description, inspect
from epochal.data.encoder import Tokenizer
from epochal.data.folder import PreparedCorpus
from epochal.data.opened import Corpus, open_corpus
from epochal.data.passport import Passport
from epochal.data.prepare import prepare
from epochal.data.readers import ReadOptions
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter, store_dtype
from epochal.data.subset import subset
from epochal.data.tokenizer import load_tokenizer, train_bpe
from epochal.data.verify import Finding, verify

__all__ = [
    "Corpus",
    "Description",
    "Finding",
    "Passport",
    "PreparedCorpus",
    "RawCorpus",
    "ReadOptions",
    "StoreWriter",
    "TokenStore",
    "Tokenizer",
    "inspect",
    "load_tokenizer",
    "open_corpus",
    "prepare",
    "store_dtype",
    "subset",
    "train_bpe",
    "verify",
]
