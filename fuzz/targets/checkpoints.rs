//! Any bytes as a checkpoint of some container: an error or layers that can be read, compressed and
//! read again. The first byte says what the user says about the file.

use std::path::Path;

use svdo::checkpoint::profile::PROFILES;
use svdo::checkpoint::{Checkpoint, Flatten, Options, Variance};
use svdo::compress::{Settings, encode};
use svdo::container;
use svdo::prune::prune;
use svdo::quantize::Quantizer;

use super::container::checksum;
use super::scratch;

/// More weights are opened, but not compressed: it would take longer than finding anything else.
const MOST_WEIGHTS: usize = 1 << 12;

fn options(byte: u8) -> Options {
    let mut options = Options::default();
    match byte {
        0..=63 => {}
        64..=127 => options.profile = PROFILES.get(usize::from(byte) - 64),
        _ => {
            options.variance =
                [Variance::LogSigma, Variance::LogSigma2].get(usize::from(byte & 3)).copied();
            options.flatten = [Flatten::ChannelsFirst, Flatten::ChannelsLast]
                .get(usize::from(byte >> 2 & 3))
                .copied();
            options.ignore_masks = byte & 16 != 0;
        }
    }
    options
}

/// Opens a file and does with it what the commands do.
pub fn open(path: &Path, options: &Options) {
    let checkpoint = match Checkpoint::open(path, options) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let layers = checkpoint.network().layers.len();
    let weights = (0..layers).map(|layer| checkpoint.weights(layer)).fold(0, usize::saturating_add);
    let _ = (
        checkpoint.dense_bytes(),
        checkpoint.claimed_accuracy(),
        checkpoint.source().metadata("svdo"),
    );
    if weights > MOST_WEIGHTS || layers > 64 {
        return;
    }
    for layer in 0..layers {
        let Ok(theta) = checkpoint.read_theta(layer) else { return };
        assert_eq!(theta.len(), checkpoint.weights(layer));
        if checkpoint.read_bias(layer).is_err() {
            return;
        }
    }
    let Ok(pruned) = prune(&checkpoint, 3.0) else { return };
    let settings = Settings { quantizer: Quantizer::Exact, simplify: false, ..Settings::default() };
    let Ok(compressed) = encode(pruned, &settings) else { return };
    container::read(compressed.bytes()).unwrap();
}

fn as_file(name: &str, bytes: &[u8]) {
    let [choice, rest @ ..] = bytes else { return };
    open(&scratch::file(name, rest), &options(*choice));
}

pub fn torch(bytes: &[u8]) {
    as_file("model.pt", bytes);
}

pub fn pickle(bytes: &[u8]) {
    as_file("model.pkl", bytes);
}

pub fn npz(bytes: &[u8]) {
    as_file("model.npz", bytes);
}

pub fn npy(bytes: &[u8]) {
    as_file("model.npy", bytes);
}

pub fn hdf5(bytes: &[u8]) {
    as_file("model.h5", bytes);
}

pub fn keras(bytes: &[u8]) {
    as_file("model.keras", bytes);
}

/// Without the length of the header, which is put before.
pub fn safetensors(bytes: &[u8]) {
    let [choice, low, high, rest @ ..] = bytes else { return };
    let length = u64::from(u16::from_le_bytes([*low, *high]));
    let file = [&length.to_le_bytes(), rest].concat();
    open(&scratch::file("model.safetensors", &file), &options(*choice));
}

/// Length of the index, index without its mark, data.
pub fn tensorflow(bytes: &[u8]) {
    let [choice, low, high, rest @ ..] = bytes else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (index, data) = rest.split_at(length);
    let index = [index, &0xdb47_7524_8b80_fb57_u64.to_le_bytes()].concat();
    scratch::file("model.ckpt.data-00000-of-00001", data);
    open(&scratch::file("model.ckpt.index", &index), &options(*choice));
}

/// Length of the pickle, pickle, bytes of every storage, as a sound archive.
pub fn torch_pickle(bytes: &[u8]) {
    let [choice, low, high, rest @ ..] = bytes else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (pickle, data) = rest.split_at(length);
    let storages: Vec<String> = (0..8).map(|key| format!("m/data/{key}")).collect();
    let members = storages.iter().map(|name| (name.as_str(), data));
    let file = archive([("m/data.pkl", pickle)].into_iter().chain(members));
    open(&scratch::file("model.pt", &file), &options(*choice));
}

/// A zip archive of stored members.
fn archive<'a>(members: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let (mut file, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    for (name, content) in members {
        let length = (content.len() as u32).to_le_bytes();
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend(checksum(content).to_le_bytes());
        common.extend([length, length].concat());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(content);
        count += 1;
    }
    let start = (file.len() as u32).to_le_bytes();
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([count.to_le_bytes(), count.to_le_bytes()].concat());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start);
    file.extend([0, 0]);
    file
}
