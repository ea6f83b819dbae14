#!/bin/bash
# llama.cpp for this machine, from the sources in the PyPI package llama-cpp-python, and a model in its format.
#
#   llama_cpp.sh DIR            builds DIR/bin/llama-bench and DIR/bin/llama-server (20 minutes on two cores)
#   llama_cpp.sh DIR MODEL OUT  also writes MODEL, a Hugging Face folder, to OUT as bf16 GGUF
set -euo pipefail
dir=$(realpath -m "$1")
version=0.3.36
mkdir -p "$dir"
[ -x "$dir/venv/bin/pip" ] || python3 -m venv "$dir/venv"
pip="$dir/venv/bin/pip install -q"
source=$dir/llama_cpp_python-$version/vendor/llama.cpp
if [ ! -x "$dir/bin/llama-server" ]; then
  $pip cmake ninja scikit-build-core
  PATH=$dir/venv/bin:$PATH "$dir/venv/bin/pip" download -q --no-deps --no-binary :all: --no-build-isolation -d "$dir" "llama-cpp-python==$version"
  tar xf "$dir/llama_cpp_python-$version.tar.gz" -C "$dir"
  export PATH=$dir/venv/bin:$PATH
  cmake -G Ninja -S "$source" -B "$dir/build" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
  cmake --build "$dir/build" --target llama-bench llama-server
  ln -sfn "$dir/build/bin" "$dir/bin"
fi
if [ $# -eq 3 ]; then
  $pip torch transformers safetensors sentencepiece
  PYTHONPATH=$source/gguf-py "$dir/venv/bin/python" "$source/convert_hf_to_gguf.py" "$2" --outtype bf16 --outfile "$3"
fi
