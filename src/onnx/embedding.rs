//! `Gather` of the rows of a constant table by ids that are an input of the network.

use super::proto::NodeProto;
use super::reader::{Reader, Value};
use super::view::{Strided, axis};
use super::{Reason, Weights};
use crate::network::{Op, Shape};

impl Reader {
    /// Whether a node looks rows up in a table.
    pub(super) fn is_lookup(&self, node: &NodeProto) -> bool {
        let (table, ids) = (node.input(0), node.input(1));
        node.op_type == "Gather"
            && table.is_some_and(|name| self.constants.has(name))
            && ids.is_some_and(|name| self.values.contains_key(name))
    }

    /// The rows of a table, along a last axis of its own.
    pub(super) fn embedding(&mut self, node: &NodeProto) -> Reason<Value> {
        let table = node.input(0).ok_or("has no input")?.to_owned();
        let (dims, values) = self.constants.reals(&table)?;
        let [rows, features] = dims[..] else {
            return Err(format!("of a constant of shape {dims:?} by values"));
        };
        if axis(node.int("axis", 0), 2)? != 0 || rows == 0 || features == 0 {
            return Err(format!("of the columns of a constant of shape {dims:?} by values"));
        }
        let x = self.value(node.input(1).ok_or("has no indices")?)?;
        let x = self.settled(x)?;
        let Some(input) = self.inputs.iter().position(|&input| input == x.source) else {
            return Err("by indices that are no input of the graph".into());
        };
        if let Some(part) = self.network.input.parts.get_mut(input) {
            part.mask = false;
        }
        let order: Vec<usize> = (0..x.view.rank()).collect();
        let ids = self.rearranged(&x, &order, Shape::new(1, 1, x.view.elements()))?;
        let name = self.layer_name(node);
        let weights = Weights { values, bias: None, fold: None, dilation: [1, 1] };
        let layer = self.add_layer(name, vec![rows, features], weights)?;
        let source = self.push(Op::Embedding { layer }, vec![ids])?;
        let sizes = [&x.dims()[..], &[features]].concat();
        let last = [sizes.len() - 1];
        let view = Strided::in_order(&sizes, &[&last[..], &order].concat());
        Ok(Value {
            source,
            copied: None,
            view: Strided { batch: x.view.batch, ..view },
            shared: false,
        })
    }
}
