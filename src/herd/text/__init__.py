"""Text and ids: tokenizer, special tokens, chat formats, tool syntax. User text is never joined with control tokens.

from herd.text.tokenizer import Tokenizer, StreamDecoder
from herd.text.chat import choose_format
"""
