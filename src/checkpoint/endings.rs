//! Names found by how they end: `fc1` is `model.fc1` where nothing else ends so.

use std::collections::BTreeMap;

/// Names, sorted from their last letters on, each with what belongs to it. `/` counts as `.`.
pub(super) struct Endings<T>(BTreeMap<Vec<u8>, T>);

impl<T> Endings<T> {
    pub(super) fn new<'a>(names: impl IntoIterator<Item = (&'a str, T)>) -> Self {
        Self(names.into_iter().map(|(name, of)| (reversed(name), of)).collect())
    }

    /// What belongs to the name itself.
    pub(super) fn get(&self, name: &str) -> Option<&T> {
        self.0.get(&reversed(name))
    }

    /// What belongs to the names that continue this one to the left, as `model.fc1` does `fc1`;
    /// the name itself is not among them.
    pub(super) fn longer(&self, name: &str) -> impl Iterator<Item = &T> {
        let mut start = reversed(name);
        start.push(b'.');
        let end = start.clone();
        let matching = move |key: &[u8]| key.starts_with(&end) && key.len() > end.len();
        self.0.range(start..).take_while(move |(key, _)| matching(key)).map(|(_, of)| of)
    }

    /// What belongs to the names that this one continues.
    pub(super) fn shorter(&self, name: &str) -> impl Iterator<Item = &T> {
        name.match_indices(['.', '/']).filter_map(|(at, _)| self.get(&name[at + 1..]))
    }
}

fn reversed(name: &str) -> Vec<u8> {
    name.bytes().rev().map(|byte| if byte == b'/' { b'.' } else { byte }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_ends() {
        let names = Endings::new([("model.fc1", 0), ("a/fc1", 1), ("xfc1", 2), ("fc2", 3)]);
        assert_eq!(names.longer("fc1").copied().collect::<Vec<i32>>(), [1, 0]);
        assert_eq!(names.get("model/fc1"), Some(&0));
        assert_eq!(names.shorter("net.model.fc1").collect::<Vec<_>>(), [&0]);
        assert_eq!(names.shorter("net.fc2").chain(names.longer("fc2")).count(), 1);
    }
}
