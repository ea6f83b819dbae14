//! Lathe: a testbed for LLM inference research.
