"""What the Deepness plugin of QGIS does with a model, without QGIS and without Tesela.

Run by an interpreter with the ONNX Runtime that the plugin pins (see test_onnx_export.py):

    python deepness_run.py model.onnx tiles.npy classes.npy

Tiles are uint8, ``(N, rows, cols, bands)``; classes come out as uint8, ``(N, rows, cols)``.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime


def main(model: str, tiles_file: str, classes_file: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    told = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    assert told["model_type"] == "Segmentor"
    assert [int(key) for key in told["class_names"]] == list(range(probabilities.shape[1]))
    assert image.shape[2:] == [told["tile_size"]] * 2 == probabilities.shape[2:]
    mean = np.array(told["standardization_mean"], np.float32)
    std = np.array(told["standardization_std"], np.float32)
    found = []
    for tile in np.load(tiles_file):
        scaled = np.float32(tile[np.newaxis] * 1.0 / 255.0)
        batch = np.transpose((scaled - mean) / std, (0, 3, 1, 2))
        result = session.run(None, {image.name: batch})[0]
        result[result < told["seg_thresh"]] = 0.0
        found.append(np.argmax(result, axis=1)[0].astype(np.uint8))
    np.save(classes_file, np.stack(found))
    print(onnxruntime.__version__, image.type)


if __name__ == "__main__":
    main(*sys.argv[1:])
