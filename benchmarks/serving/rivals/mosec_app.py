"""mosec: MODEL=… BATCH=… WAIT=… python mosec_app.py --address 127.0.0.1 --port PORT"""

import os

import numpy as np
from mosec import Server, Worker
from perceptron import session


class Perceptron(Worker):
    def __init__(self):
        super().__init__()
        self._session = session(os.environ["MODEL"])

    def forward(self, requests):
        rows = [np.array(it["inputs"][0]["data"], np.float32) for it in requests]
        (y,) = self._session.run(None, {"x": np.stack(rows)})
        return [
            {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 10], "data": row}]}
            for row in y.tolist()
        ]


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Perceptron,
        num=1,
        max_batch_size=int(os.environ["BATCH"]),
        max_wait_time=int(os.environ["WAIT"]),
    )
    server.run()
