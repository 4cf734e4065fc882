#!/usr/bin/env python3
"""First inputs for the targets, from fixtures/ and from nothing, in the forms that the targets take; reports
and states of trainings are given.

    fuzz/seeds.py FOLDER [report=FILE...] [state=FILE...]
"""
import gzip, hashlib, io, random, struct, sys, zipfile, zlib
from pathlib import Path

root = Path(__file__).resolve().parent.parent
imports, graphs = root / "fixtures/import", root / "fixtures/onnx"
out = Path(sys.argv[1])
MOST = 15000


def put(target, *contents):
    folder = out / target
    folder.mkdir(parents=True, exist_ok=True)
    for content in contents:
        if len(content) <= MOST:
            (folder / hashlib.sha1(content).hexdigest()[:16]).write_bytes(content)


def files(pattern, folder=imports):
    return [path.read_bytes() for path in sorted(folder.glob(pattern))]


def u16(n):
    return struct.pack("<H", n)


for content in files("*.svdo", root / "fixtures/golden"):
    if len(content) > 2000:
        continue
    put("container", content[5:-4])
    put("c", b"\2\2" + content[5:-4])
for target, patterns in {
    "torch": ["*.pt", "*.pth", "*.t7"],
    "pickle": ["*.pkl"],
    "npz": ["*.npz"],
    "npy": ["*.npy"],
}.items():
    for pattern in patterns:
        put(target, *(b"\0" + content for content in files(pattern)))
put("hdf5", *(b"\0" + content for content in files("*.h5")))
# Files of HDF5 are mostly zeros, which compress well.
for content in files("*.keras"):
    archive, packed = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as members:
        for name in archive.namelist():
            members.writestr(zipfile.ZipInfo(name), archive.read(name), zipfile.ZIP_DEFLATED, 9)
    put("keras", b"\0" + packed.getvalue())
for content in files("*.pt") + files("*.pth") + files("*.t7"):
    if content[:2] != b"PK":
        continue
    archive = zipfile.ZipFile(io.BytesIO(content))
    name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
    pickle = archive.read(name)
    data = max((archive.read(n) for n in archive.namelist() if "/data/" in n), key=len)
    put("torch_pickle", b"\0" + u16(len(pickle)) + pickle + data)
for content in files("*.safetensors") + files("sharded/*.safetensors"):
    length = struct.unpack("<Q", content[:8])[0]
    put("safetensors", b"\0" + u16(length) + content[8:])
for index in sorted(imports.glob("*.index")):
    table = index.read_bytes()[:-8]
    data = Path(str(index)[:-6] + ".data-00000-of-00001").read_bytes()
    put("tensorflow", b"\0" + u16(len(table)) + table + data)
put("onnx", *files("*.onnx", graphs))
put("network", *(b"\0" + content for content in files("*.json")))
put("network", *(b"\1" + content for content in files("*.json")))
put("network", b'\0{"version":1,"input":{"shape":[4]},"nodes":[{"op":"linear","layer":"a","name":"x"},'
    b'{"op":"leaky_relu","slope":0.5},{"op":"add","inputs":["x","input"]},{"op":"softmax"}]}')


def chunk(kind, body):
    return struct.pack(">H", len(body)) + kind + body


for color, samples in [(0, 1), (2, 3), (4, 2), (6, 4), (3, 1)]:
    for depth in (1, 8, 16) if color in (0, 3) else (8, 16):
        if color == 3 and depth == 16:
            continue
        for interlace in (0, 1):
            row = (4 * samples * depth + 7) // 8
            pixels = b"".join(b"\0" + bytes(i % 251 for i in range(row)) for _ in range(4))
            if interlace:
                pixels = bytes(200)
            header = struct.pack(">IIBBBBB", 4, 4, depth, color, 0, 0, interlace)
            palette = chunk(b"PLTE", bytes(range(6))) if color == 3 else b""
            put("png", bytes([1 if samples < 3 else 2]) + chunk(b"IHDR", header) + palette
                + chunk(b"tRNS", bytes(2)) * (color == 3)
                + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))


def idx(kind, *dims, size=1):
    count = 1
    for dim in dims:
        count *= dim
    return bytes([0, 0, kind, len(dims)]) + b"".join(struct.pack(">I", d) for d in dims) + bytes(count * size)


def npy(descr, shape, size, fortran=False):
    header = str({"descr": descr, "fortran_order": fortran, "shape": shape}).encode() + b"\n"
    count = 1
    for dim in shape:
        count *= dim
    return b"\x93NUMPY\1\0" + u16(len(header)) + header + bytes(count * size)


arrays = [idx(8, 3, 4, 4), idx(13, 2, 12, size=4), idx(14, 1, 4, 4, size=8), idx(8, 12),
          npy("<f4", (2, 3, 4, 4), 4), npy("|u1", (5, 12), 1), npy(">f8", (4, 3), 8, True),
          npy("<f2", (12,), 2), npy("|b1", (1, 4, 4), 1)]
for content in arrays:
    put("samples", *(bytes([choice]) + content for choice in (1, 2, 5)))
    put("samples", b"\5" + gzip.compress(content, mtime=0))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr(zipfile.ZipInfo("x.npy"), content)
        members.writestr(zipfile.ZipInfo("y.npy"), content)
    put("samples", b"\x15" + archive.getvalue())
put("samples", b"\x0c" + bytes(48), b"\x0d" + bytes(48))
labels = [idx(8, 9), idx(12, 3, size=4), npy("<i8", (4,), 8), npy("|u1", (4, 1), 1), npy("<i2", (3,), 2)]
put("labels", *labels, *(gzip.compress(content, mtime=0) for content in labels))

for target, count in {"layers": 40, "networks": 40, "export": 30, "serve": 20}.items():
    random.seed(target)
    for _ in range(count):
        content = random.randbytes(random.randrange(20, 160))
        if target == "serve":
            # Requests of whole samples for small inputs, among others.
            content = bytes([40]) + content + b"".join(
                struct.pack("<I", n) + bytes(n) for n in (4, 8, 48, 96, 240))
        put(target, content)
point = (b'{"threshold":3.0,"settings":{"step":0.8,"lambda":0.04,"companding":13,"gamma":0.0,"bias":0.25,"distill":0},'
         b'"bytes":40,"change":{"output_error":0.01,"divergence":0.001,"errors":null,"evaluation":null}}\n')
put("search", b"\0", b"\1" + point, b"\2" + point.replace(b"0.8", b"0.4") + b'{"thr', b"\0no state\n",
    b"\3" + point.replace(b"null", b"[1,2]", 1), b'\0{"svdo_search":1}\n',
    b"\1" + 3 * point.replace(b"0.01", b"1e300").replace(b"40", b"18446744073709551615"))
for extra in sys.argv[2:]:
    target, path = extra.split("=")
    content = Path(path).read_bytes()
    # The length of a state's header is put before it by the target.
    put(target, content[:2] + content[8:] if target == "state" else content)
