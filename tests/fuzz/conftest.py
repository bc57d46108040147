"""The fuzzer is a program of its own: imported here, it would instrument the decoders that other tests use."""

collect_ignore = ["fuzz_dialects.py"]
