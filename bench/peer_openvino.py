r"""OpenVINO GenAI on a picture: seconds to the first token, in an environment of its own.

    python bench/peer_openvino.py MODEL_FOLDER picture.npy --threads 2 --warm small.npy

A picture is uint8 [height, width, 3] in NumPy's file. Prints a JSON object; `encode` is what
VLMPipeline calls preparing the embeddings: its tower, and the look-up of the text's rows. The
environment and the folder come from

    python -m venv ov
    ov/bin/pip install openvino-genai 'optimum[openvino]' 'transformers==5.2.*' torchvision pillow
    python tests/reference/checkpoints.py CHECKPOINT 0.8b
    ov/bin/optimum-cli export openvino --model CHECKPOINT --task image-text-to-text \
        --weight-format int4 --group-size-fallback ignore MODEL_FOLDER
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai
from process import Watch


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("model", help="folder that optimum-cli export openvino wrote")
    parser.add_argument("image")
    parser.add_argument("--warm", help="a picture to see first")
    parser.add_argument("--prompt", default="?")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    settings = {"INFERENCE_NUM_THREADS": args.threads, "CACHE_DIR": ""}
    pipe = openvino_genai.VLMPipeline(args.model, "CPU", **settings)
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.do_sample, config.ignore_eos = 1, False, True

    def ask(path: str) -> Any:
        pixels = ov.Tensor(np.load(path)[None])
        return pipe.generate(args.prompt, images=[pixels], generation_config=config).perf_metrics

    if args.warm:
        ask(args.warm)
    watch, start = Watch(), time.perf_counter()
    figures = ask(args.image)
    result = {
        "first": time.perf_counter() - start,
        "encode": figures.get_prepare_embeddings_duration().mean / 1000,
        "tokens": figures.get_num_input_tokens(),
    }
    print(json.dumps(result | watch.figures()), flush=True)


if __name__ == "__main__":
    main()
