"""The layers alone, without a tunnel: padded windows hide the length of the content, and a seal protects it.

Layer 0 is next to the stream; the last is next to the content.
"""

import io
import secrets

from readwrite_comp import (
    CompR,
    CompW,
    MultiRExt,
    MultiWExt,
    PaddedWindowsR,
    PaddedWindowsW,
    SealedR,
    SealedW,
)

key = secrets.token_bytes(32)
file = io.BytesIO()

with CompW(file, MultiWExt([SealedW(key), PaddedWindowsW(1024)])) as out:
    for word in (b"length ", b"is ", b"hidden ", b"in ", b"windows"):
        out.write(word)
file.write(b"bytes behind the message")

file.seek(0)
with CompR(file, MultiRExt([SealedR(key), PaddedWindowsR(1024)])) as content:
    print(content.read().decode())
print(file.read().decode())
