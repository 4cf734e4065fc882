//! The stack machine of pickles: what its instructions do, none of which calls anything.

use std::collections::HashMap;

use super::input::{Input, SHORT, Step, Stop};
use super::{Call, Id, Node, is_known};
use crate::budget::ReadBudget;

/// A pickle may hold this many objects.
pub(super) const MAX_NODES: usize = 1 << 20;
/// Characters of a function's name that a message shows.
const MOST_SHOWN: usize = 120;
/// Bytes that an object takes beside what its kind holds, while the arena grows.
const OF_A_NODE: usize = 2 * size_of::<Node>();

/// What instructions work on.
pub(super) struct Machine<'a> {
    pub(super) input: Input<'a>,
    pub(super) nodes: Vec<Node>,
    pub(super) stack: Vec<Id>,
    pub(super) marks: Vec<usize>,
    pub(super) memo: HashMap<u64, Id>,
    budget: &'a ReadBudget,
}

impl<'a> Machine<'a> {
    pub(super) fn new(input: Input<'a>, budget: &'a ReadBudget) -> Self {
        let (stack, marks, memo) = (Vec::new(), Vec::new(), HashMap::new());
        Self { input, nodes: vec![Node::None], stack, marks, memo, budget }
    }

    /// The most objects that the stack, its marks or the memory hold.
    pub(super) fn depth(&self) -> usize {
        self.stack.len().max(self.marks.len()).max(self.memo.len())
    }

    pub(super) fn push(&mut self, node: Node) -> Step<()> {
        if self.nodes.len() >= MAX_NODES {
            return Err(Stop::Problem(format!("more than {MAX_NODES} objects")));
        }
        let held = match &node {
            Node::Text { text, .. } | Node::Global(text) => text.len(),
            Node::List(items) | Node::Tuple(items) => size_of_val(&items[..]),
            Node::Dict(items) => size_of_val(&items[..]),
            Node::Call(_) => size_of::<Call>(),
            _ => 0,
        };
        self.budget.bytes((OF_A_NODE + held) as u64).map_err(Stop::Read)?;
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Step<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the stack is empty".into());
        }
        self.stack.pop().ok_or_else(|| "the stack is empty".into())
    }

    pub(super) fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| "the stack is empty".into())
    }

    pub(super) fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("there is no mark")?;
        if mark > self.stack.len() {
            return Err("a mark is above the stack".into());
        }
        Ok(self.stack.split_off(mark))
    }

    pub(super) fn pop_pairs_to_mark(&mut self) -> Step<Vec<(Id, Id)>> {
        let items = self.pop_to_mark()?;
        if items.len() % 2 == 1 {
            return Err("a key without a value".into());
        }
        Ok(items.as_chunks::<2>().0.iter().map(|&[k, v]| (k, v)).collect())
    }

    pub(super) fn tuple(&mut self, count: usize) -> Step<()> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    pub(super) fn text(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        if length > SHORT {
            return self.push(Node::Bytes { start, length });
        }
        let bytes = self.input.part.bytes(start, length, SHORT).map_err(Stop::Read)?;
        let text = String::from_utf8(bytes).map_err(|_| "a text is not UTF-8")?;
        self.push(Node::Text { text, start })
    }

    pub(super) fn raw(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        self.push(Node::Bytes { start, length })
    }

    /// A string of Python 2: names are texts, values of arrays are bytes.
    pub(super) fn old_string(&mut self, length: u64) -> Step<()> {
        if length <= 256 {
            let start = self.input.at;
            let bytes = match self.input.part.length().saturating_sub(start) {
                left if left < length => return Err("it ends within a string".into()),
                _ => self.input.part.bytes(start, length, SHORT).map_err(Stop::Read)?,
            };
            if let Ok(text) = std::str::from_utf8(&bytes)
                && text.bytes().all(|b| (b' '..=b'~').contains(&b))
            {
                self.input.skip(length)?;
                return self.push(Node::Text { text: text.to_owned(), start });
            }
        }
        self.raw(length)
    }

    /// A text written with escapes, whose bytes are therefore nowhere.
    pub(super) fn line_of_text(&mut self, text: String) -> Step<()> {
        self.push(Node::Text { text, start: u64::MAX })
    }

    pub(super) fn global(&mut self, module: &str, name: &str) -> Step<()> {
        let global = format!("{module}.{name}");
        if !is_known(&global) {
            let global: String = global.chars().take(MOST_SHOWN).collect();
            if global.ends_with("_rebuild_qtensor") {
                return Err(Stop::Problem(format!(
                    "{global} makes a quantized tensor, which is not read: save the values, as in \
                     torch.save({{k: v.dequantize() for k, v in model.state_dict().items()}}, ...)"
                )));
            }
            return Err(Stop::Problem(format!(
                "{global} is not among the functions and classes that a checkpoint may refer to \
                 (nothing was executed): save only the tensors, as in \
                 torch.save(model.state_dict(), ...)"
            )));
        }
        self.push(Node::Global(global))
    }

    pub(super) fn call(&mut self) -> Step<()> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Node::Global(_) = &self.nodes[function] else {
            return Err("it calls something that is not a function".into());
        };
        self.push(Node::Call(Box::new(Call {
            function,
            arguments,
            state: None,
            items: Vec::new(),
        })))
    }

    pub(super) fn put(&mut self, index: u64) -> Step<()> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    pub(super) fn get(&mut self, index: u64) -> Step<()> {
        let id = *self.memo.get(&index).ok_or("it refers to an object that it did not store")?;
        self.stack.push(id);
        Ok(())
    }

    pub(super) fn append(&mut self, values: Vec<Id>) -> Step<()> {
        let list = self.top()?;
        match &mut self.nodes[list] {
            Node::List(items) => items.extend(values),
            Node::Call(_) => {}
            _ => return Err("it appends to something that is not a list".into()),
        }
        Ok(())
    }

    pub(super) fn set_items(&mut self, pairs: Vec<(Id, Id)>) -> Step<()> {
        let dict = self.top()?;
        match &mut self.nodes[dict] {
            Node::Dict(items) => items.extend(pairs),
            Node::Call(call) => call.items.extend(pairs),
            _ => return Err("it sets items of something that is not a dictionary".into()),
        }
        Ok(())
    }

    pub(super) fn long(&mut self, length: u64) -> Step<()> {
        let start = self.input.skip(length)?;
        let bytes = self.input.part.bytes(start, length, 1 << 16).map_err(Stop::Read)?;
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        if bytes.len() > 8 {
            return self.push(Node::None);
        }
        let mut wide = [if negative { 0xff } else { 0 }; 8];
        wide[..bytes.len()].copy_from_slice(&bytes);
        self.push(Node::Int(i64::from_le_bytes(wide)))
    }
}
