//! A CUDA driver in software: `libcuda.so.1` for machines without a GPU.
