//! What a file is that holds nothing that is read.

/// What a file is that begins so, if it is something well known that holds no network or array that
/// is read, and what to do.
pub(crate) fn foreign(head: &[u8]) -> Option<&'static str> {
    let text = head.trim_ascii_start();
    let page = |tag: &[u8]| text.get(..tag.len()).is_some_and(|t| t.eq_ignore_ascii_case(tag));
    // A map of few members, the first with a short text as its key: `{"params": ...}`.
    let msgpack = matches!(head, [0x81..=0x8f, 0xa1..=0xbf | 0xd9, ..])
        || matches!(head, [0xde, _, _, 0xa1..=0xbf | 0xd9, ..]);
    let known = match head {
        _ if head.starts_with(b"version https://git-lfs") => {
            "a Git LFS pointer, the file itself is elsewhere: fetch it by git lfs pull"
        }
        _ if page(b"<!doctype") || page(b"<html") || page(b"<?xml") => {
            "a web page, as a failed download leaves: fetch the file again"
        }
        _ if head.starts_with(b"GGUF") => {
            "GGUF (llama.cpp), which is not read: save the weights as safetensors"
        }
        _ if head.get(4..8) == Some(b"TFL3") => {
            "a TensorFlow Lite model, which is not read: give the checkpoint it was made of"
        }
        _ if head.starts_with(&[0x1f, 0x8b]) => "gzip: unpack it first",
        _ if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) => "zstd: unpack it first",
        _ if head.starts_with(b"Rar!") || head.starts_with(b"7z\xbc\xaf") => {
            "a packed archive: unpack it first"
        }
        _ if msgpack && head.get(8) != Some(&b'{') => {
            "msgpack, as Flax writes it, which is not read: save the arrays by numpy.savez under \
             their names"
        }
        _ => return None,
    };
    Some(known)
}
