import mmap
import os

file = os.open("nameless", os.O_RDWR | os.O_CREAT)
os.unlink("nameless")
os.ftruncate(file, 8192)
memory = mmap.mmap(file, 8192)
memory[4096:4101] = b"kept!"
memory.flush()
assert os.pread(file, 5, 4096) == b"kept!"
