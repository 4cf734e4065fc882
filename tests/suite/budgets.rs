//! No input of n bytes takes more than 64 MiB + 64 n of memory, nor more than 1 s + 1 us x n, whatever
//! reads it: every fixture, damaged ones, and files made to do harm.

use std::io::Write;
use std::path::{Path, PathBuf};

use svdo::checkpoint::Checkpoint;
use svdo::data;
use svdo::engine::{Engine, Isa};
use svdo::model::{LayerWeights, Model, Pattern, Scale, Values};
use svdo::network::describe::Description;
use svdo::network::{Input, Layer, Network, Node, Op, Shape, Source};

/// Seconds of this thread: the machine may be busy.
fn seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn failure<T>(result: svdo::Result<T>) -> String {
    result.err().map(|e| e.to_string()).unwrap_or_default()
}

/// All readers that a file of this name is for; what the last says.
fn read(path: &Path) -> String {
    let bytes = std::fs::read(path).unwrap();
    let end = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    match end.as_str() {
        "svdo" => match svdo::container::read(&bytes) {
            Ok(model) => failure(Engine::new(&model, Isa::detect(None).unwrap())),
            Err(error) => error.to_string(),
        },
        "json" => {
            let text = String::from_utf8_lossy(&bytes);
            let _ = svdo::report::diff::read(path);
            let _ = svdo::checkpoint::open_source(path);
            failure(Description::from_json(&text))
        }
        "onnx" => failure(Checkpoint::open(path, &Default::default())),
        "gz" | "png" | "f32" | "idx" => {
            let _ = data::read_labels(path);
            failure(data::read_samples(&[path.into()], None, Shape::new(1, 28, 28)))
        }
        _ => {
            let _ = data::read_samples(&[path.into()], None, Shape::new(1, 28, 28));
            failure(Checkpoint::open(path, &Default::default()))
        }
    }
}

/// Reads files within the bounds, on one thread, and collects those that are not.
struct Bounds {
    pool: rayon::ThreadPool,
    broken: Vec<String>,
}

impl Bounds {
    fn new() -> Self {
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        Self { pool: alone.build().unwrap(), broken: Vec::new() }
    }

    /// What the reader says; `beside` are the bytes of files that it reads too.
    fn hold(&mut self, path: &Path, beside: u64) -> String {
        let length = std::fs::metadata(path).unwrap().len() + beside;
        let (mut found, start) = (String::new(), seconds());
        let used = allocation_counter::measure(|| found = self.pool.install(|| read(path)));
        let took = seconds() - start;
        let name = path.file_name().unwrap().to_string_lossy();
        let (bytes, time) = ((64 << 20) + 64 * length, 1.0 + 1e-6 * length as f64);
        let shown: String = found.chars().take(200).collect();
        if used.bytes_max > bytes {
            self.broken.push(format!("{name}: {} of {bytes} bytes: {shown}", used.bytes_max));
        }
        if took > time {
            self.broken.push(format!("{name}: {took:.2} of {time:.2} s: {shown}"));
        }
        found
    }
}

#[test]
fn fixtures_whole_cut_and_changed() {
    let mut bounds = Bounds::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let folder = tempfile::tempdir().unwrap();
    for part in ["import", "onnx", "golden", "."] {
        for entry in std::fs::read_dir(root.join(part)).unwrap() {
            let path = entry.unwrap().path();
            let end = path.extension().unwrap_or_default().to_string_lossy().into_owned();
            if !path.is_file() || ["py", "md", "folded"].contains(&end.as_str()) {
                continue;
            }
            let index = path.to_string_lossy().replace(".index", ".data-00000-of-00001");
            let data = PathBuf::from(index);
            let beside = data.metadata().map_or(0, |m| m.len());
            bounds.hold(&path, beside);
            let bytes = std::fs::read(&path).unwrap();
            let copy = folder.path().join(path.file_name().unwrap());
            if data != path {
                std::fs::copy(&data, folder.path().join(data.file_name().unwrap())).unwrap();
            }
            for at in [7, bytes.len() / 3, bytes.len().saturating_sub(1)] {
                std::fs::write(&copy, &bytes[..at.min(bytes.len())]).unwrap();
                bounds.hold(&copy, beside);
            }
            for change in 0..6 {
                let mut changed = bytes.clone();
                // The first bytes are those of headers, the last those of tables of contents.
                let at = change * 41 % changed.len().min(400);
                let at = if change % 2 == 0 { at } else { changed.len() - 1 - at };
                changed[at] = [0xff, 0x80, 0x7f][change % 3];
                std::fs::write(&copy, &changed).unwrap();
                bounds.hold(&copy, beside);
            }
            std::fs::remove_file(&copy).unwrap();
        }
    }
    assert!(bounds.broken.is_empty(), "{:#?}", bounds.broken);
}

fn pickles() -> Vec<(&'static str, Vec<u8>)> {
    let text =
        |text: &str| [&[b'X'][..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let storage = [
        &b"("[..],
        &text("storage"),
        b"ctorch\nFloatStorage\n",
        &text("0"),
        &text("cpu"),
        b"K\x01tQ",
    ]
    .concat();
    let tensor = |size: &[u8]| {
        [b"ctorch._utils\n_rebuild_tensor_v2\n(", &storage[..], b"K\x00", size, size, b"tR"]
            .concat()
    };
    let whole = |parts: &[&[u8]]| [&b"\x80\x02"[..], &parts.concat(), b"."].concat();
    // A size that is its own argument.
    let cycle = b"ctorch\nSize\n]q\x00Rq\x010h\x00h\x01a0";
    let size_cycle = whole(&[cycle, &tensor(b"h\x01")]);
    // One tuple of many dimensions, in many tensors.
    let dims = [&b"("[..], &b"K\x01".repeat(1 << 15), b"tq\x050"].concat();
    let many = tensor(b"h\x05").repeat(1 << 11);
    let dims = whole(&[&dims, b"(", &many, b"l"]);
    // A long key again and again: dictionaries in one another, each twice.
    let mut names = [&text(&"k".repeat(4000))[..], b"q\x00", &tensor(b")"), b"q\x010"].concat();
    for _ in 0..24 {
        names.extend(b"}(h\x00h\x01K\x07h\x01uq\x010");
    }
    let names = whole(&[&names, b"h\x01"]);
    let long = [&b"ctorch\nfloat"[..], &b"a".repeat(4000), b"\nq\x000"].concat();
    let globals = whole(&[&long, &b"h\x00)R".repeat(1 << 18)]);
    let short = b"ctorch\nSize\nq\x000".to_vec();
    let calls = whole(&[&short, b"(", &b"h\x00)R".repeat(1 << 18), b"l"]);
    let mut doubled = b"]q\x00".to_vec();
    (0..64).for_each(|_| doubled.extend(b"](h\x00h\x00eq\x00"));
    vec![
        ("size_cycle.pkl", size_cycle),
        ("dims.pkl", dims),
        ("names.pkl", names),
        ("globals.pkl", globals),
        ("calls.pkl", calls),
        ("doubled.pkl", whole(&[&doubled])),
        ("tuples.pkl", whole(&[&b")".repeat(1 << 20)])),
        ("marks.pkl", whole(&[&b"(".repeat(1 << 20)])),
        ("deep.pkl", whole(&[&b"]".repeat(1 << 19), &b"a".repeat((1 << 19) - 1)])),
    ]
}

/// A field of a protocol buffer.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(u64::from(number) << 3 | 2);
    bytes.extend(varint(content.len() as u64));
    bytes.extend(content);
    bytes
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn node(op: &str, inputs: &[&str], output: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = inputs.iter().flat_map(|name| field(1, name.as_bytes())).collect();
    bytes.extend(field(2, output.as_bytes()));
    bytes.extend(field(4, op.as_bytes()));
    field(1, &bytes)
}

fn tensor(name: &str, dims: &[u64], kind: u64, raw: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        dims.iter().flat_map(|&d| [varint(1 << 3), varint(d)].concat()).collect();
    bytes.extend([varint(2 << 3), varint(kind)].concat());
    bytes.extend(field(8, name.as_bytes()));
    bytes.extend(field(9, raw));
    bytes
}

/// A model with an input `x` and an output `y` and these fields of the graph.
fn model(dims: &[u64], parts: &[Vec<u8>]) -> Vec<u8> {
    let value = |name: &str, dims: &[u64]| {
        let shape: Vec<u8> =
            dims.iter().flat_map(|&d| field(1, &[varint(1 << 3), varint(d)].concat())).collect();
        let kind = field(2, &field(1, &field(2, &shape)));
        [field(1, name.as_bytes()), kind].concat()
    };
    let ends = [field(11, &value("x", dims)), field(12, &value("y", &[]))].concat();
    field(7, &[parts.concat(), ends].concat())
}

fn models() -> Vec<(&'static str, Vec<u8>)> {
    let initializer =
        |name: &str, dims: &[u64], kind, raw: &[u8]| field(5, &tensor(name, dims, kind, raw));
    let mut sizes = vec![initializer("s0", &[4], 7, &[0; 32])];
    for at in 0..40 {
        let name = format!("s{at}");
        sizes.push(node("Concat", &[&name, &name], &format!("s{}", at + 1)));
    }
    sizes.push(node("Reshape", &["x", "s40"], "y"));
    let sparse = |name: &str, dims: &[u64]| {
        let values = field(1, &tensor(name, &[1], 1, &[0; 4]));
        let indices = field(2, &tensor("", &[1], 7, &[0; 8]));
        let dims: Vec<u8> =
            dims.iter().flat_map(|&d| [varint(3 << 3), varint(d)].concat()).collect();
        field(15, &[values, indices, dims].concat())
    };
    let mut products = vec![sparse("w", &[1024, 1024])];
    for at in 0..500 {
        let from = if at == 0 { "x".into() } else { format!("m{at}") };
        products.push(node("MatMul", &[&from, "w"], &format!("m{}", at + 1)));
    }
    products.push(node("Relu", &["m500"], "y"));
    let long = "n".repeat(1 << 20);
    let mut renamed = vec![node("Identity", &[&long], "i")];
    (0..4000).for_each(|at| renamed.push(node("Relu", &["i"], &format!("r{at}"))));
    renamed.push(node("Sum", &["r0", "x"], "y"));
    let mut spread = vec![initializer("c", &[], 1, &2f32.to_le_bytes())];
    for at in 0..200 {
        let from = if at == 0 { "x".into() } else { format!("t{at}") };
        spread.push(node("Tanh", &[&from], &format!("a{at}")));
        spread.push(node("Mul", &[&format!("a{at}"), "c"], &format!("t{}", at + 1)));
    }
    spread.push(node("Relu", &["t200"], "y"));
    let mut turned = vec![initializer("w0", &[1 << 9, 1 << 9], 1, &vec![0; 1 << 20])];
    for at in 0..2000 {
        turned.push(node("Transpose", &[&format!("w{at}")], &format!("w{}", at + 1)));
    }
    turned.push(node("MatMul", &["x", "w2000"], "y"));
    let mut uses = vec![initializer("w", &[512, 512], 1, &vec![0; 1 << 20])];
    for at in 0..3000 {
        let from = if at == 0 { "x".into() } else { format!("u{at}") };
        uses.push(node("MatMul", &[&from, "w"], &format!("u{}", at + 1)));
    }
    uses.push(node("Relu", &["u3000"], "y"));
    vec![
        ("sizes.onnx", model(&[1, 8], &sizes)),
        ("sparse.onnx", model(&[1, 1024], &products)),
        ("renamed.onnx", model(&[1, 8], &renamed)),
        ("spread.onnx", model(&[1, 1 << 22], &spread)),
        ("turned.onnx", model(&[1, 512], &turned)),
        ("uses.onnx", model(&[1, 512], &uses)),
        ("attributes.onnx", model(&[1, 8], &[field(1, &[0x2a, 0].repeat(1 << 18))])),
        ("nodes.onnx", model(&[1, 8], &[[0x0a, 0].repeat(1 << 18)])),
        ("tensors.onnx", model(&[1, 8], &[[0x2a, 0].repeat(1 << 18)])),
    ]
}

/// A `.svdo` file of one value and this many operations.
fn operations(code: u8, count: usize) -> Vec<u8> {
    let mut header = vec![0, 1, 1, 1];
    header.extend(1f32.to_le_bytes());
    header.extend([0, 0, 0]);
    header.extend(varint(count as u64));
    header.extend(vec![code; count]);
    sealed(&header)
}

fn sealed(header: &[u8]) -> Vec<u8> {
    let section = [varint(header.len() as u64), header.to_vec()].concat();
    let sealed = [&b"SVDO\x01"[..], &section].concat();
    let sum = crc32fast::hash(&sealed).to_le_bytes();
    [&sealed[..], &sum].concat()
}

fn zipped(members: usize, name: &str, content: &[u8]) -> Vec<u8> {
    let options = zip::write::SimpleFileOptions::default();
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for at in 0..members {
        archive.start_file(format!("{name}{at}.npy"), options).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn gzipped(head: &[u8], zeros: usize) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(head).unwrap();
    (0..zeros >> 20).for_each(|_| packed.write_all(&vec![0; 1 << 20]).unwrap());
    packed.finish().unwrap()
}

fn others() -> Vec<(&'static str, Vec<u8>)> {
    let mut array = Vec::new();
    data::write_npy(&mut array, &[1 << 17], &vec![0.0; 1 << 17]).unwrap();
    let samples = 1u32 << 18;
    let idx =
        [&[0, 0, 8, 3][..], &samples.to_be_bytes(), &28u32.to_be_bytes(), &28u32.to_be_bytes()];
    let header = |json: &str| [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
    let entry =
        |at: usize| format!(r#""fc{at}.x":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#);
    let tensors: Vec<String> = (0..20_000).map(entry).collect();
    let description = |nodes: &str| {
        format!(r#"{{"version":1,"input":{{"shape":[1]}},"nodes":[{nodes}]}}"#).into_bytes()
    };
    let ops = vec![r#"{"op":""}"#; 300_000].join(",");
    // A table of one block, each key of which is the long one before and nothing.
    let key = "k".repeat(1 << 15);
    let mut block = [&[0][..], &varint(1 << 15), &[0], key.as_bytes()].concat();
    (0..100_000).for_each(|_| block.extend([varint(1 << 15), vec![0, 0]].concat()));
    block.extend([0; 4]);
    let handle = [varint(0), varint(block.len() as u64)].concat();
    let index = [&[0, 0][..], &varint(handle.len() as u64), &handle, &[0; 4]].concat();
    let at = block.len() as u64 + 1;
    let mut footer = [varint(0), varint(0), varint(at), varint(index.len() as u64)].concat();
    footer.resize(40, 0);
    let magic = 0xdb47_7524_8b80_fb57_u64.to_le_bytes();
    let table = [&block[..], &[0], &index, &[0], &footer, &magic].concat();
    vec![
        ("seven.npy", b"\x93NUMPY\x01".to_vec()),
        ("seven.npz", zipped(1, "a", b"\x93NUMPY\x01")),
        ("members.npz", zipped(1500, "fc.weight", &array)),
        ("many.npz", zipped(20_000, "a", b"")),
        ("zeros.gz", gzipped(&idx.concat(), samples as usize * 784)),
        ("tensors.safetensors", header(&format!("{{{}}}", tensors.join(",")))),
        ("nested.safetensors", header(&"[".repeat(1 << 20))),
        (
            "shape.safetensors",
            header(&format!(
                r#"{{"a":{{"dtype":"F32","shape":[{}1],"data_offsets":[0,0]}}}}"#,
                "1,".repeat(1 << 20)
            )),
        ),
        ("keys.index", table),
        ("nodes.json", description(&ops)),
        ("nested.json", "[".repeat(1 << 20).into_bytes()),
        (
            "index.json",
            format!(
                r#"{{"weight_map":{{}},"metadata":{{"a":[{}0]}}}}"#,
                r#"{"":0},"#.repeat(1 << 18)
            )
            .into_bytes(),
        ),
        ("relu.svdo", operations(32, 1_000_000)),
        ("relus.svdo", operations(32, 60_000)),
        (
            "pool.svdo",
            sealed(&[
                0, 1, 1, 1, 0, 0, 0x80, 0x3f, 0, 0, 0, 1, 3, 0x80, 1, 0x80, 1, 1, 1, 127, 127, 127,
                127,
            ]),
        ),
    ]
}

#[test]
fn files_made_to_do_harm() {
    let folder = tempfile::tempdir().unwrap();
    let mut bounds = Bounds::new();
    let mut said = std::collections::BTreeMap::new();
    for (name, bytes) in pickles().into_iter().chain(models()).chain(others()) {
        let path = folder.path().join(name);
        std::fs::write(&path, &bytes).unwrap();
        said.insert(name, bounds.hold(&path, 0));
    }
    assert!(bounds.broken.is_empty(), "{:#?}", bounds.broken);
    let refused = |name: &str, why: &str| {
        let found = &said[name];
        assert!(found.contains(why) && !found.contains('\n'), "{name}: {found:?} lacks {why:?}");
    };
    for name in ["sizes.onnx", "sparse.onnx", "attributes.onnx", "renamed.onnx"] {
        refused(name, "the memory for what a file of this size describes");
    }
    refused("size_cycle.pkl", "a tensor without its storage");
    refused("dims.pkl", "is not described as a tensor");
    refused("seven.npy", "ends within its header");
    refused("seven.npz", "ends within its header");
    refused("zeros.gz", "unpack it first");
    refused("relu.svdo", "too many nodes");
    assert_eq!((said["relus.svdo"].as_str(), said["pool.svdo"].as_str()), ("", ""));
}

/// Scales that make infinite factors, and with them NaN, are refused wherever they stand.
#[test]
fn headers_that_make_no_numbers() {
    let mut header = vec![0, 1, 1, 1];
    header.extend(1f32.to_le_bytes());
    header.extend([0, 1]);
    header.extend(1e-42f32.to_le_bytes());
    header.extend([0, 1, 32]);
    let error = svdo::container::read(&sealed(&header)).unwrap_err().to_string();
    assert!(error.contains("scale / std"), "{error}");
    let mut header = vec![0, 1, 1, 1];
    header.extend(1f32.to_le_bytes());
    header.extend([0, 0, 0, 1, 16]);
    header.extend(f32::NAN.to_le_bytes());
    let error = svdo::container::read(&sealed(&header)).unwrap_err().to_string();
    assert!(error.contains("node 0: its slope"), "{error}");
    let text = r#"{"version":1,"input":{"shape":[1],"std":[1e-42]},"nodes":[{"op":"relu"}]}"#;
    let error = Description::from_json(text).unwrap().resolve(vec![]).unwrap_err().to_string();
    assert!(error.contains("scale / std"), "{error}");
}

/// A pipe beside a model is not waited for, nor is a link out of the folder followed.
#[cfg(unix)]
#[test]
fn external_data_is_a_file_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/etc/hostname", folder.path().join("link")).unwrap();
    for (location, expected) in [("pipe", "is no file"), ("link", "not in the model's folder")] {
        let entry = [field(1, b"location"), field(2, location.as_bytes())].concat();
        let mut weights = tensor("w", &[1, 1], 1, &[]);
        weights.extend([field(13, &entry), varint(14 << 3), varint(1)].concat());
        let parts = [field(5, &weights), node("MatMul", &["x", "w"], "y")];
        let path = folder.path().join("model.onnx");
        std::fs::write(&path, model(&[1, 1], &parts)).unwrap();
        let error = Checkpoint::open(&path, &Default::default()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = Checkpoint::open(&pipe, &Default::default()).err().unwrap().to_string();
    assert!(error.contains("no regular file"), "{error}");
}

/// A network of layers of so many rows and columns whose weights are all 1 where `there` says so.
fn stored(layers: usize, shape: [usize; 2], there: impl Fn(usize, u32) -> bool) -> Model {
    let [rows, cols] = shape;
    let layer = |number: usize| {
        let mut pattern = Pattern::with_columns(cols);
        for row in 0..rows {
            pattern.push_row((0..cols as u32).filter(|&c| there(row + number, c))).unwrap();
        }
        let scale = Scale { step: 1.0, companding: 0 };
        let values = Values::Levels { scale, levels: vec![1; pattern.len()] };
        LayerWeights { pattern, values, bias: None }
    };
    let mut network = Network {
        input: Input::plain(Shape::vector(cols)),
        layers: (0..layers).map(|n| Layer { name: n.to_string(), shape: shape.into() }).collect(),
        nodes: Vec::new(),
        time: None,
    };
    for layer in 0..layers {
        let op = Op::Linear { layer };
        network.nodes.push(Node { name: String::new(), op, inputs: vec![Source::Input] });
    }
    Model { network, threshold: None, weights: (0..layers).map(layer).collect() }
}

/// The one exception of SECURITY.md: as many weights as a byte may hold take 256 bytes of memory.
#[test]
fn a_file_of_as_many_weights_as_it_may_hold() {
    let model = stored(1, [4096, 4096], |_, _| true);
    let bytes = svdo::container::write(&model, true).unwrap().bytes;
    // The writer has put zeros at its end.
    assert!(bytes.len() * 16 < 4096 * 4100, "{}", bytes.len());
    let pool = Bounds::new().pool;
    let mut read = None;
    let used =
        allocation_counter::measure(|| read = pool.install(|| svdo::container::read(&bytes)).ok());
    assert!(read.is_some_and(|read| read == model));
    let limit = (64 << 20) + 256 * bytes.len() as u64;
    assert!(used.bytes_max <= limit, "{} of {limit} bytes", used.bytes_max);
}

/// Layers that are smaller under mixing, more of them than the reader has time for.
#[test]
fn what_is_written_can_be_read_in_time() {
    let there = |row: usize, c: u32| {
        let place = u64::from(c) * 7919 + (row as u64 / 16) * 104_729;
        row % 4096 == c as usize || place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50 < 40
    };
    let model = stored(10, [4096, 512], there);
    let written = svdo::container::write(&model, false).unwrap();
    let sizes: Vec<usize> = written.layers.iter().map(|layer| layer.bytes).collect();
    assert!(sizes[9] > sizes[0] && sizes[8] > sizes[7], "{sizes:?}: the last ones by gaps");
    assert!(svdo::container::read(&written.bytes).unwrap() == model);
}
