"""Text and ids: tokenizer, special tokens, chat formats, tool syntax. User text is never joined with control tokens.

from herd.text.tokenizer import Tokenizer
from herd.text.stream import StreamDecoder
from herd.text.chat import choose_format
"""
