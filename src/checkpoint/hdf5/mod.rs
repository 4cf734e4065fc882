//! The part of HDF5 that Keras writes: groups, and arrays whose values lie in the file in one piece.
//!
//! Of the crates that read HDF5 in Rust, the complete ones are 30,000 lines with `unsafe` and memory
//! maps of their own; this needs names, types, shapes and positions, by positional reads like every
//! other container. What Keras does not write (chunks, filters, links to other files, groups in
//! fractal heaps) is refused by name. Everything read is bounded: a structure by [`file::MOST_BYTES`], all
//! structures and names of a file by its budget, nesting by [`MOST_DEPTH`].

mod byte_reader;
mod content;
mod file;

use byte_reader::{ByteReader, invalid};
pub(super) use file::MAGIC;
use file::{EACH, File, Message};

use super::stored::Part;
use super::tensor::DType;
use crate::budget::ReadBudget;
use crate::error::Result;

/// Groups in one another.
const MOST_DEPTH: usize = ReadBudget::DEPTH;

/// How often the names of an array are kept by who reads the file.
const NAMES: u64 = 3;

mod message {
    pub(super) const SPACE: u16 = 0x01;
    pub(super) const LINK_INFO: u16 = 0x02;
    pub(super) const TYPE: u16 = 0x03;
    pub(super) const LINK: u16 = 0x06;
    pub(super) const EXTERNAL: u16 = 0x07;
    pub(super) const LAYOUT: u16 = 0x08;
    pub(super) const FILTERS: u16 = 0x0b;
    pub(super) const ATTRIBUTE: u16 = 0x0c;
    pub(super) const CONTINUATION: u16 = 0x10;
    pub(super) const SYMBOLS: u16 = 0x11;
}

/// An array of a file.
#[derive(Debug)]
pub(super) struct Array {
    /// Names of the groups it is in, and its own.
    pub(super) path: Vec<String>,
    /// The text attribute `name` of the group it is in.
    pub(super) label: Option<String>,
    /// Where it is described; ascends in the order in which arrays were made.
    pub(super) header: u64,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    /// The first byte of its values in the part.
    pub(super) start: u64,
    /// Why its values cannot be read.
    pub(super) refused: Option<&'static str>,
}

/// All arrays of the file that begins at `base` of a part, in the order in which they were made; and
/// the root's text attribute of a name.
///
/// # Errors
/// What is damaged or not read.
pub(super) fn arrays(
    part: &Part,
    base: u64,
    attribute: &str,
) -> Result<(Vec<Array>, Option<String>)> {
    let (file, root) = File::open(part, base)?;
    let mut found = Vec::new();
    file.walk(root, &mut Vec::new(), None, &mut found)?;
    found.sort_by_key(|array| array.header);
    let mut text = None;
    for message in file.messages(root)?.iter().filter(|m| m.kind == message::ATTRIBUTE) {
        text = text.or(file.label(&message.content, attribute.as_bytes())?);
    }
    Ok((found, text))
}

impl File<'_> {
    fn walk(
        &self,
        header: u64,
        path: &mut Vec<String>,
        label: Option<&str>,
        found: &mut Vec<Array>,
    ) -> Result<()> {
        if path.len() > MOST_DEPTH {
            return Err(invalid(format!(
                "more than {MOST_DEPTH} groups in one another, or a cycle"
            )));
        }
        let messages = self.messages(header)?;
        let find = |kind| messages.iter().find(|m| m.kind == kind);
        if let (Some(kind), Some(space), Some(layout)) =
            (find(message::TYPE), find(message::SPACE), find(message::LAYOUT))
        {
            let filtered = find(message::FILTERS).or(find(message::EXTERNAL)).is_some();
            let array = self.array([kind, space, layout], filtered);
            let (dtype, shape, start, refused) = array.map_err(|e| e.in_tensor(path.join("/")))?;
            let names: u64 = path.iter().map(|name| name.len() as u64 + EACH).sum();
            let dims = size_of_val(&shape[..]) as u64;
            self.spend(NAMES * names + dims + label.map_or(0, |label| label.len() as u64))?;
            let (path, label) = (path.clone(), label.map(str::to_owned));
            found.push(Array { path, label, header, dtype, shape, start, refused });
            return Ok(());
        }
        let mut label = None;
        for attribute in messages.iter().filter(|m| m.kind == message::ATTRIBUTE) {
            label = label.or(self.label(&attribute.content, b"name")?);
        }
        let mut members = Vec::new();
        if let Some(symbols) = find(message::SYMBOLS) {
            let mut fields = ByteReader(&symbols.content);
            let (tree, heap) = (self.address(&mut fields)?, self.address(&mut fields)?);
            if let (Some(tree), Some(heap)) = (tree, heap) {
                let names = self.heap(heap)?;
                self.tree(tree, None, &names, &mut members)?;
            }
        }
        if let Some(info) = find(message::LINK_INFO) {
            let mut fields = ByteReader(&info.content);
            let flags = fields.take(2)?[1];
            fields.take(if flags & 1 == 0 { 0 } else { 8 })?;
            if self.address(&mut fields)?.is_some() {
                return Err(invalid(format!(
                    "group {:?} keeps its members in a fractal heap, which is not read: save the \
                     weights with Keras, or with h5py without track_order",
                    path.join("/")
                )));
            }
        }
        for link in messages.iter().filter(|m| m.kind == message::LINK) {
            members.extend(self.link(&link.content)?);
        }
        for (name, header) in members {
            path.push(name);
            self.walk(header, path, label.as_deref(), found)?;
            path.pop();
        }
        Ok(())
    }

    /// The messages of an object's header, its continuations among them.
    fn messages(&self, header: u64) -> Result<Vec<Message>> {
        let mut messages = Vec::new();
        let start = self.read_up_to(header, 32)?;
        let (newer, flags, mut blocks) = match start.starts_with(b"OHDR") {
            true => {
                let mut fields = ByteReader(&start[4..]);
                let [2, flags] = *fields.take(2)? else {
                    return Err(invalid("an object header of an unknown version"));
                };
                let times = if flags & 0x20 == 0 { 0 } else { 16 };
                let limits = if flags & 0x10 == 0 { 0 } else { 4 };
                fields.take(times + limits)?;
                let width = 1 << (flags & 3);
                let size = fields.number(width)?;
                let before = (6 + times + limits + width) as u64;
                (true, flags, vec![(header.saturating_add(before), size)])
            }
            false => {
                let mut fields = ByteReader(&start);
                if fields.number(1)? != 1 {
                    return Err(invalid("an object header of an unknown version: damaged"));
                }
                fields.take(7)?;
                (false, 0, vec![(header.saturating_add(16), fields.number(4)?)])
            }
        };
        let mut at = 0;
        while let Some(&(start, length)) = blocks.get(at) {
            let bytes = self.read(start, length)?;
            let mut fields = ByteReader(&bytes);
            if newer && at > 0 {
                fields.expect(b"OCHK")?;
                // The checksum at its end.
                let content = fields.0.len().saturating_sub(4);
                fields = ByteReader(&fields.0[..content]);
            }
            let least = if newer { 4 } else { 8 };
            while fields.0.len() >= least {
                let kind = fields.number(if newer { 1 } else { 2 })? as u16;
                let size = fields.number(2)? as usize;
                let of_message = fields.number(1)?;
                fields.take(if !newer {
                    3
                } else if flags & 4 != 0 {
                    2
                } else {
                    0
                })?;
                let content = fields.take(size)?.to_vec();
                if kind == message::CONTINUATION {
                    let mut fields = ByteReader(&content);
                    if let Some(start) = self.address(&mut fields)? {
                        blocks.push((start, fields.number(self.length)?));
                    }
                    continue;
                }
                messages.push(Message { kind, shared: of_message & 2 != 0, content });
            }
            at += 1;
        }
        Ok(messages)
    }

    /// The names of a group's members, each ended by a zero.
    fn heap(&self, address: u64) -> Result<Vec<u8>> {
        let head = self.read(address, 8 + 2 * self.length as u64 + self.offset as u64)?;
        let mut fields = ByteReader(&head);
        fields.expect(b"HEAP")?;
        fields.take(4)?;
        let size = fields.number(self.length)?;
        fields.take(self.length)?;
        let start = self.address(&mut fields)?.ok_or_else(|| invalid("a group without names"))?;
        self.read(start, size)
    }

    /// The members of a group below a node of its tree, with their headers.
    fn tree(
        &self,
        node: u64,
        expected: Option<u8>,
        names: &[u8],
        members: &mut Vec<(String, u64)>,
    ) -> Result<()> {
        let head = self.read(node, 8)?;
        let mut fields = ByteReader(&head);
        fields.expect(b"TREE")?;
        let &[kind, level] = fields.take(2)? else { return Err(invalid("a tree")) };
        if kind != 0 || expected.is_some_and(|expected| level != expected) || level > 16 {
            return Err(invalid("the tree of a group is damaged"));
        }
        let (entries, pair) = (fields.number(2)?, (self.length + self.offset) as u64);
        let first = node + 8 + 2 * self.offset as u64;
        let bytes = self.read(first, entries * pair)?;
        let mut fields = ByteReader(&bytes);
        for _ in 0..entries {
            fields.take(self.length)?;
            let Some(child) = self.address(&mut fields)? else { continue };
            match level.checked_sub(1) {
                Some(below) => self.tree(child, Some(below), names, members)?,
                None => self.symbols(child, names, members)?,
            }
        }
        Ok(())
    }

    fn symbols(&self, node: u64, names: &[u8], members: &mut Vec<(String, u64)>) -> Result<()> {
        let head = self.read(node, 8)?;
        let mut fields = ByteReader(&head);
        fields.expect(b"SNOD")?;
        fields.take(2)?;
        let (entries, size) = (fields.number(2)?, 2 * self.offset as u64 + 24);
        let bytes = self.read(node + 8, entries * size)?;
        let mut fields = ByteReader(&bytes);
        for _ in 0..entries {
            let name = fields.number(self.offset)?;
            let header = self.address(&mut fields)?;
            let kind = fields.number(4)?;
            fields.take(20)?;
            // 2 is a symbolic link.
            if let (Some(header), true) = (header, kind != 2) {
                let rest = usize::try_from(name).ok().and_then(|at| names.get(at..));
                let name = rest.and_then(|rest| rest.split(|&b| b == 0).next());
                members.push((self.name(name.unwrap_or_default())?, header));
            }
        }
        Ok(())
    }
}
