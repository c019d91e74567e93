"""`model.py` of a model repository of Triton: runs a SavedModel in Triton's Python backend.

It is copied into the repository and imported by Triton, not by this package. The backend uses the packages of the
Python environment that is first in PATH when Triton starts. NumPy must be older than 2 there: with newer ones the
backend of Triton 2.51 reads and answers wrong values.
"""

import json
import os


class TritonPythonModel:
    """The interface of the backend: requests in, responses out."""

    def initialize(self, args):
        """Load the model beside this file."""
        config = json.loads(args["model_config"])
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
        import tensorflow as tf

        folder = os.path.join(args["model_repository"], args["model_version"], "saved_model")  # noqa: PTH118
        self._input = config["input"][0]["name"]
        self._model = tf.saved_model.load(folder)
        self._signature = self._model.signatures["serving_default"]

    def execute(self, requests):
        """Run each request; one that fails is answered with its error."""
        import tensorflow as tf
        import triton_python_backend_utils as backend

        responses = []
        for request in requests:
            values = backend.get_input_tensor_by_name(request, self._input).as_numpy()
            values = values.tolist() if values.dtype == object else values
            dtype = self._signature.structured_input_signature[1][self._input].dtype
            try:
                outputs = {
                    k: v.numpy() for k, v in self._signature(**{self._input: tf.constant(values, dtype)}).items()
                }
            except tf.errors.OpError as error:
                responses.append(backend.InferenceResponse(error=backend.TritonError(str(error))))
                continue
            tensors = [backend.Tensor(name, value) for name, value in sorted(outputs.items())]
            responses.append(backend.InferenceResponse(output_tensors=tensors))
        return responses
