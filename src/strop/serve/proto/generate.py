"""Writes ``descriptor.py`` from the ``.proto`` files; needs grpcio-tools, which only developers do.

Run it as ``python -m strop.serve.proto.generate``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

HERE = Path(__file__).parent
FILES = ("inference.proto", "health.proto")
WIDTH = 88


def generated() -> str:
    """What ``descriptor.py`` should hold."""
    import base64
    import textwrap

    from google.protobuf import descriptor_pb2
    from grpc_tools import protoc  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "set"
        code = protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={out}", *FILES])
        if code:
            raise SystemExit(code)
        found = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    text = base64.b64encode(found.SerializeToString(deterministic=True)).decode()
    lines = "\n".join(textwrap.wrap(text, WIDTH))
    return (
        '"""The descriptors of the ``.proto`` files. Generated: change those, and run '
        'generate.py."""\n\n'
        "from base64 import b64decode\n\n"
        f'DESCRIPTORS = b64decode("""\n{lines}\n""")\n'
    )


if __name__ == "__main__":
    (HERE / "descriptor.py").write_text(generated(), encoding="utf-8")
