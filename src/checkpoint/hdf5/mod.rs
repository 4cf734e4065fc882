//! The part of HDF5 that Keras writes: groups, and arrays whose values lie in the file in one piece.
//!
//! Of the crates that read HDF5 in Rust, the complete ones are 30,000 lines with `unsafe` and memory
//! maps of their own; this needs names, types, shapes and places, by positional reads like every
//! other container. What Keras does not write (chunks, filters, links to other files, groups in
//! fractal heaps) is refused by name. Everything read is bounded: a structure by [`MOST_BYTES`], all
//! structures and names of a file by [`MOST_TOTAL`], nesting by [`MOST_DEPTH`].

mod fields;

use std::cell::Cell;

use fields::{Fields, text};

use super::stored::Part;
use super::tensor::DType;
use crate::error::{Error, Result};

/// With which a file begins.
pub(super) const MAGIC: &[u8] = b"\x89HDF\r\n\x1a\n";
/// Largest structure that is read: a heap with the names of a group.
const MOST_BYTES: u64 = 1 << 24;
/// Bytes of all structures that are read of one file and of all names that are kept.
const MOST_TOTAL: u64 = 1 << 28;
/// Added for each of them, so that their number is bounded too.
const EACH: u64 = 64;
/// Groups in one another.
const MOST_DEPTH: usize = 32;

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

fn invalid(problem: impl Into<String>) -> Error {
    Error::Format { format: "HDF5", problem: problem.into() }
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

/// All arrays of the file that begins at `base` of a part, in the order in which they were made.
///
/// # Errors
/// What is damaged or not read.
pub(super) fn arrays(part: &Part, base: u64) -> Result<Vec<Array>> {
    let mut file = File { part, base, offset: 8, length: 8, spent: Cell::new(0) };
    let root = file.superblock()?;
    let mut found = Vec::new();
    file.walk(root, &mut Vec::new(), None, &mut found)?;
    found.sort_by_key(|array| array.header);
    Ok(found)
}

struct File<'a> {
    part: &'a Part,
    base: u64,
    /// Bytes of an address.
    offset: usize,
    /// Bytes of a length.
    length: usize,
    /// Of [`MOST_TOTAL`].
    spent: Cell<u64>,
}

struct Message {
    kind: u16,
    shared: bool,
    content: Vec<u8>,
}

impl File<'_> {
    fn read(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        if length <= MOST_BYTES {
            self.spend(length)?;
        }
        let start = self.base.checked_add(at).ok_or_else(|| invalid("an address is too large"))?;
        self.part.bytes(start, length, MOST_BYTES)
    }

    fn spend(&self, bytes: u64) -> Result<()> {
        let needed = self.spent.get() + bytes + EACH;
        self.spent.set(needed);
        if needed <= MOST_TOTAL {
            return Ok(());
        }
        let what = "reading the structures of an HDF5 file".into();
        Err(Error::Limit { what, needed, limit: MOST_TOTAL })
    }

    /// A name in UTF-8.
    fn name(&self, bytes: &[u8]) -> Result<String> {
        self.spend(bytes.len() as u64)?;
        text(bytes)
    }

    /// As [`File::read`], cut off at the end of the file.
    fn read_up_to(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let end = self.part.length().saturating_sub(self.base);
        self.read(at, length.min(end.saturating_sub(at)))
    }

    /// An address, if there is one.
    fn address(&self, fields: &mut Fields<'_>) -> Result<Option<u64>> {
        let none = u64::MAX >> (64 - 8 * self.offset);
        Ok(Some(fields.number(self.offset)?).filter(|&address| address != none))
    }

    /// Reads how wide numbers are; gives the address of the root group.
    fn superblock(&mut self) -> Result<u64> {
        let bytes = self.read_up_to(0, 128)?;
        let mut fields = Fields(&bytes);
        fields.expect(MAGIC)?;
        let version = fields.number(1)?;
        let sizes = match version {
            0 | 1 => fields.take(6)?[4..].to_vec(),
            2 | 3 => fields.take(2)?.to_vec(),
            _ => return Err(invalid(format!("version {version}, 0 to 3 are read"))),
        };
        (self.offset, self.length) = (sizes[0].into(), sizes[1].into());
        if ![4, 8].contains(&self.offset) || ![4, 8].contains(&self.length) {
            return Err(invalid("numbers that do not have 4 or 8 bytes"));
        }
        fields.take(match version {
            0 => 9,
            1 => 13,
            _ => 1,
        })?;
        if fields.number(self.offset)? != 0 {
            return Err(invalid("its addresses do not count from its beginning"));
        }
        fields.take(2 * self.offset)?;
        if version < 2 {
            // The driver's address, then the root's entry: its name and its header.
            fields.take(self.offset)?;
            fields.take(self.offset)?;
            return self.address(&mut fields)?.ok_or_else(|| invalid("it has no root group"));
        }
        // What was skipped after the base are the extension's address and the end of the file.
        self.address(&mut fields)?.ok_or_else(|| invalid("it has no root group"))
    }

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
            self.spend(path.iter().map(|name| name.len() as u64 + EACH).sum())?;
            let (path, label) = (path.clone(), label.map(str::to_owned));
            found.push(Array { path, label, header, dtype, shape, start, refused });
            return Ok(());
        }
        let mut label = None;
        for attribute in messages.iter().filter(|m| m.kind == message::ATTRIBUTE) {
            label = label.or(self.label(&attribute.content)?);
        }
        let mut members = Vec::new();
        if let Some(symbols) = find(message::SYMBOLS) {
            let mut fields = Fields(&symbols.content);
            let (tree, heap) = (self.address(&mut fields)?, self.address(&mut fields)?);
            if let (Some(tree), Some(heap)) = (tree, heap) {
                let names = self.heap(heap)?;
                self.tree(tree, None, &names, &mut members)?;
            }
        }
        if let Some(info) = find(message::LINK_INFO) {
            let mut fields = Fields(&info.content);
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
                let mut fields = Fields(&start[4..]);
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
                let mut fields = Fields(&start);
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
            let mut fields = Fields(&bytes);
            if newer && at > 0 {
                fields.expect(b"OCHK")?;
                // The checksum at its end.
                let content = fields.0.len().saturating_sub(4);
                fields = Fields(&fields.0[..content]);
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
                    let mut fields = Fields(&content);
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
        let mut fields = Fields(&head);
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
        let mut fields = Fields(&head);
        fields.expect(b"TREE")?;
        let &[kind, level] = fields.take(2)? else { return Err(invalid("a tree")) };
        if kind != 0 || expected.is_some_and(|expected| level != expected) || level > 16 {
            return Err(invalid("the tree of a group is damaged"));
        }
        let (entries, pair) = (fields.number(2)?, (self.length + self.offset) as u64);
        let first = node + 8 + 2 * self.offset as u64;
        let bytes = self.read(first, entries * pair)?;
        let mut fields = Fields(&bytes);
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
        let mut fields = Fields(&head);
        fields.expect(b"SNOD")?;
        fields.take(2)?;
        let (entries, size) = (fields.number(2)?, 2 * self.offset as u64 + 24);
        let bytes = self.read(node + 8, entries * size)?;
        let mut fields = Fields(&bytes);
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

    /// A member of a newer group, unless it is a link by name.
    fn link(&self, content: &[u8]) -> Result<Option<(String, u64)>> {
        let mut fields = Fields(content);
        let &[1, flags] = fields.take(2)? else {
            return Err(invalid("a link of an unknown version"));
        };
        let kind = if flags & 8 == 0 { 0 } else { fields.number(1)? };
        fields.take(if flags & 4 == 0 { 0 } else { 8 } + usize::from(flags >> 4 & 1))?;
        let length = fields.number(1 << (flags & 3))?;
        let name = self.name(fields.take(usize::try_from(length).unwrap_or(usize::MAX))?)?;
        Ok(if kind == 0 { self.address(&mut fields)?.map(|header| (name, header)) } else { None })
    }

    /// The value of an attribute called `name` that is a text.
    fn label(&self, content: &[u8]) -> Result<Option<String>> {
        let mut fields = Fields(content);
        let version = fields.number(1)?;
        fields.take(1)?;
        let sizes = [fields.number(2)?, fields.number(2)?, fields.number(2)?].map(|n| n as usize);
        fields.take(usize::from(version == 3))?;
        let padded = |size: usize| if version == 1 { size.next_multiple_of(8) } else { size };
        let name = fields.take(padded(sizes[0]))?;
        let kind = fields.take(padded(sizes[1]))?;
        fields.take(padded(sizes[2]))?;
        if !(1..=3).contains(&version) || name.split(|&b| b == 0).next() != Some(b"name") {
            return Ok(None);
        }
        let class = kind.first().map_or(0, |b| b & 15);
        match class {
            3 => Ok(fields.0.split(|&b| b == 0).next().map(text).transpose()?),
            9 => {
                let length = fields.number(4)?;
                let Some(heap) = self.address(&mut fields)? else { return Ok(None) };
                let index = fields.number(4)?;
                self.shared_text(heap, index, length).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// A text of a global heap.
    fn shared_text(&self, heap: u64, wanted: u64, length: u64) -> Result<String> {
        let head = self.read(heap, 8 + self.length as u64)?;
        let mut fields = Fields(&head);
        fields.expect(b"GCOL")?;
        fields.take(4)?;
        let size = fields.number(self.length)?;
        let bytes = self.read(heap, size)?;
        let mut fields = Fields(&bytes);
        fields.take(head.len())?;
        loop {
            let (index, _) = (fields.number(2)?, fields.take(6)?);
            let size = fields.number(self.length)?;
            if index == 0 {
                return Err(invalid("an attribute's text is not in its heap"));
            }
            let padded = size.checked_next_multiple_of(8).and_then(|n| usize::try_from(n).ok());
            let object = fields.take(padded.unwrap_or(usize::MAX))?;
            if index == wanted {
                let length = usize::try_from(length.min(size)).unwrap_or(0);
                return text(&object[..length]);
            }
        }
    }

    #[allow(clippy::type_complexity)]
    fn array(
        &self,
        [kind, space, layout]: [&Message; 3],
        filtered: bool,
    ) -> Result<(DType, Vec<usize>, u64, Option<&'static str>)> {
        let dtype = match kind.shared {
            true => DType::Other("a named type"),
            false => dtype(&kind.content)?,
        };
        let mut fields = Fields(&space.content);
        let (version, rank) = (fields.number(1)?, fields.number(1)?);
        fields.take(match version {
            1 => 6,
            2 => 2,
            _ => return Err(invalid("a shape of an unknown version")),
        })?;
        let dims = (0..rank).map(|_| {
            let dim = usize::try_from(fields.number(self.length)?);
            dim.map_err(|_| invalid("a dimension is too large"))
        });
        let shape = dims.collect::<Result<Vec<_>>>()?;
        let mut fields = Fields(&layout.content);
        let &[version @ (3 | 4), class] = fields.take(2)? else {
            return Ok((dtype, shape, 0, Some("its layout is of a version before HDF5 1.6.3")));
        };
        let _ = version;
        let refused = match class {
            1 if filtered => Some("its values are in another file"),
            1 => None,
            0 => Some("its values are stored in its header"),
            _ => Some("its values are stored in chunks: save it without compression"),
        };
        let start = match refused {
            None => self.address(&mut fields)?,
            Some(_) => Some(0),
        };
        match start.and_then(|start| start.checked_add(self.base)) {
            Some(start) => Ok((dtype, shape, start, refused)),
            None => Ok((dtype, shape, 0, Some("its values were never written"))),
        }
    }
}

/// The element type of a datatype message.
fn dtype(content: &[u8]) -> Result<DType> {
    let mut fields = Fields(content);
    let class = fields.number(1)? & 15;
    let bits = fields.number(3)?;
    let size = fields.number(4)?;
    // Of a float: first bit, bits, place and width of the exponent, of the fraction, the bias.
    let float = match (class, bits & 0x41) {
        (1, 0) => fields.take(12).ok(),
        _ => None,
    };
    Ok(match (class, size, float) {
        (1, 4, Some([0, 0, 32, 0, 23, 8, 0, 23, 127, 0, 0, 0])) => DType::F32,
        (1, 8, Some([0, 0, 64, 0, 52, 11, 0, 52, 255, 3, 0, 0])) => DType::F64,
        (1, 2, Some([0, 0, 16, 0, 10, 5, 0, 10, 15, 0, 0, 0])) => DType::F16,
        (1, 2, Some([0, 0, 16, 0, 7, 8, 0, 7, 127, 0, 0, 0])) => DType::BF16,
        (1, ..) => DType::Other("an unusual or big-endian float"),
        (0, 1, _) if bits & 8 == 0 => DType::U8,
        (0, ..) => DType::Other("an integer type"),
        (3 | 9, ..) => DType::Other("a text"),
        (6, ..) => DType::Other("complex"),
        _ => DType::Other("another type"),
    })
}
