"""Files as llama.cpp's own tools write them: its block encoders, its type mix, its GGUF writer.

`ggml_quantize_chunk` is exported by the library in the `xllamacpp` wheel, the writer is the `gguf`
package, and the choice of types repeats the plain mixes of llama.cpp's quantiser.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import xllamacpp
from gguf import GGMLQuantizationType as Type
from numpy.typing import NDArray

FILE_TYPES = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15, "q6_k": 18}
_BASE = {"q4_0": Type.Q4_0, "q8_0": Type.Q8_0, "q4_k_m": Type.Q4_K, "q6_k": Type.Q6_K}


def _library() -> ctypes.CDLL:
    (path,) = Path(xllamacpp.__file__).parent.glob("xllamacpp*.so")
    library = ctypes.CDLL(str(path))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def _encode(library: ctypes.CDLL, values: NDArray[np.float32], kind: Type) -> NDArray[np.uint8]:
    """values: [rows, cols] -> bytes [rows, bytes of a row]."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    rows, cols = values.shape
    out = np.empty((rows, cols // block * size), np.uint8)
    source = np.ascontiguousarray(values, np.float32)
    written = library.ggml_quantize_chunk(
        int(kind),
        source.ctypes.data_as(ctypes.c_void_p),
        out.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(0),
        ctypes.c_int64(rows),
        ctypes.c_int64(cols),
        None,
    )
    assert written == out.nbytes
    return out


def _choose(name: str, layer: int, layers: int, type_name: str, tied: bool) -> Type:
    """Q4_K_M raises the head and some layers of ffn_down and attn_v to Q6_K, attn_qkv to Q5_K."""
    base = _BASE[type_name]
    if name == "output.weight" or (tied and name == "token_embd.weight"):
        return Type.Q8_0 if type_name == "q8_0" else Type.Q6_K
    if type_name != "q4_k_m":
        return base
    eighth = layers // 8
    more = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    if more and ("ffn_down" in name or "attn_v" in name):
        return Type.Q6_K
    return Type.Q5_K if "attn_qkv" in name else base


def requantise(source: Path, target: Path, type_name: str) -> None:
    """Rewrites `source`, a qwen35 file of F32 matrices, the way llama.cpp's tools would."""
    library, reader = _library(), gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "qwen35")
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "qwen35cpp.")) or key == "general.architecture":
            continue
        value = FILE_TYPES[type_name] if key == "general.file_type" else field.contents()
        array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(key, value, field.types[0], field.types[-1] if array else None)
    names = {tensor.name for tensor in reader.tensors}
    layers = 1 + max(int(n.split(".")[1]) for n in names if n.startswith("blk."))
    for tensor in reader.tensors:
        values = np.asarray(tensor.data, np.float32)
        if values.ndim == 1 or "ssm_conv1d" in tensor.name or tensor.name.endswith("_norm.weight"):
            writer.add_tensor(tensor.name, values)
            continue
        layer = int(tensor.name.split(".")[1]) if tensor.name.startswith("blk.") else -1
        kind = _choose(tensor.name, layer, layers, type_name, "output.weight" not in names)
        writer.add_tensor(tensor.name, _encode(library, values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
