"""LitServe: python litserve_app.py MODEL PORT BATCH MILLISECONDS"""

import sys

import litserve
import numpy as np
from perceptron import session


class Perceptron(litserve.LitAPI):
    def setup(self, device):
        self._session = session(sys.argv[1])

    def decode_request(self, request):
        return np.array(request["inputs"][0]["data"], np.float32)

    def predict(self, batch):
        return self._session.run(None, {"x": batch})[0]

    def encode_response(self, output):
        data = output.tolist()
        return {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 10], "data": data}]}


if __name__ == "__main__":
    _, _, port, batch, wait = sys.argv
    api = Perceptron(max_batch_size=int(batch), batch_timeout=float(wait) / 1000)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=1,
        log_level="error",
        generate_client_file=False,
    )
