//! Names of the classes. They stand behind the name of the last node, a line feed before each: there a file has room
//! for them, and a reader that knows nothing of them takes them for a part of that name, to which nothing refers.

use super::{Network, Node};
use crate::error::{Error, Result};

impl Network {
    /// Names of the outputs, by number; empty unless there is one for each.
    pub fn classes(&self) -> Vec<&str> {
        let name = self.nodes.last().map_or("", |node| &node.name);
        let names: Vec<&str> = name.split('\n').skip(1).collect();
        if !names.is_empty() && self.outputs() == Ok(names.len()) { names } else { Vec::new() }
    }

    /// Names the outputs, which may have names already; none takes these away.
    ///
    /// # Errors
    /// [`Error::Network`] unless there is one for each output, without line feeds.
    pub fn name_classes<T: AsRef<str>>(&mut self, names: &[T]) -> Result<()> {
        let outputs = self.outputs().map_err(Error::network)?;
        if !names.is_empty() && names.len() != outputs {
            return Err(Error::network(format!(
                "{} names of classes, the network has {outputs} outputs",
                names.len()
            )));
        }
        if let Some(name) = names.iter().find(|name| name.as_ref().contains('\n')) {
            return Err(Error::network(format!("class {:?} has a line feed", name.as_ref())));
        }
        let own = self.own_name(self.nodes.len().saturating_sub(1)).to_owned();
        if let Some(last) = self.nodes.last_mut() {
            last.name = names.iter().fold(own, |all, name| all + "\n" + name.as_ref());
        }
        Ok(())
    }

    /// The name of a node without those of the classes.
    pub(crate) fn own_name(&self, node: usize) -> &str {
        let name = self.nodes.get(node).map_or("", |node| &node.name);
        match node + 1 == self.nodes.len() && !self.classes().is_empty() {
            true => name.split('\n').next().unwrap_or_default(),
            false => name,
        }
    }

    fn outputs(&self) -> std::result::Result<usize, String> {
        let outputs = self.output_shape_of_all().and_then(|shape| shape.elements());
        outputs.map_err(|e| e.to_string())
    }
}

impl Node {
    /// What the node is called in messages: the first line of its name.
    pub(crate) fn label(&self) -> &str {
        self.name.split('\n').next().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::network::{Activation, Input, Network, Node, Op, Shape, Source};

    fn network(name: &str) -> Network {
        let op = Op::Activation(Activation::Relu);
        let nodes = vec![Node { name: name.into(), op, inputs: vec![Source::Input] }];
        Network { input: Input::plain(Shape::vector(3)), layers: Vec::new(), nodes, time: None }
    }

    #[test]
    fn names_are_kept_beside_the_nodes_own() {
        for own in ["", "head"] {
            let mut net = network(own);
            assert!(net.classes().is_empty() && net.own_name(0) == own);
            net.name_classes(&["cat", "", "dog: big"]).unwrap();
            assert_eq!((net.classes(), net.own_name(0)), (vec!["cat", "", "dog: big"], own));
            net.name_classes(&["a", "b", "c"]).unwrap();
            assert_eq!((net.classes(), net.own_name(0)), (vec!["a", "b", "c"], own));
            net.name_classes::<&str>(&[]).unwrap();
            assert_eq!(net, network(own));
        }
    }

    #[test]
    fn other_names_of_several_lines_stay_names() {
        let net = network("a\nb");
        assert!(net.classes().is_empty());
        assert_eq!(net.own_name(0), "a\nb");
        let mut net = network("");
        let error = net.name_classes(&["a", "b"]).unwrap_err().to_string();
        assert!(error.contains("2 names of classes, the network has 3 outputs"), "{error}");
        assert!(
            net.name_classes(&["a", "b", "c\nd"]).unwrap_err().to_string().contains("line feed")
        );
        assert_eq!(net, network(""));
    }
}
