//! Names of the classes: the member `classes` of the file's own metadata or of its network
//! description, or `id2label` of a Hugging Face model's `config.json` beside it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use super::Checkpoint;
use crate::error::Result;

/// Bytes of a `config.json` that are read.
const MOST_CONFIG: u64 = 16 << 20;

impl Checkpoint {
    /// Names of the network's classes by number, where they are known.
    pub fn classes(&self) -> Vec<String> {
        self.network.classes().into_iter().map(str::to_owned).collect()
    }

    /// Gives the classes these names, in place of those that they have.
    ///
    /// # Errors
    /// As [`Network::name_classes`](crate::network::Network::name_classes).
    pub fn name_classes(&mut self, names: &[String]) -> Result<()> {
        self.network.name_classes(names)
    }

    /// Gives the network the names that are known.
    pub(super) fn find_classes(&mut self) {
        let own = self.source.metadata("svdo").map_or_else(Vec::new, own_names);
        let named = match own.is_empty() {
            true if self.network.classes().is_empty() => labels_beside(&self.path),
            true => return,
            false => own,
        };
        if let Err(problem) = self.network.name_classes(&named) {
            self.notes.push(format!("names of classes are left out: {problem}"));
        }
    }
}

fn own_names(metadata: &str) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Named {
        #[serde(default)]
        classes: Vec<String>,
    }
    serde_json::from_str::<Named>(metadata).map(|named| named.classes).unwrap_or_default()
}

/// The labels of the `config.json` in the folder, or in that of the file, if it has any that were chosen: those of
/// numbers 0, 1 ..., not `LABEL_0`, `LABEL_1` ...
fn labels_beside(path: &Path) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(default)]
        id2label: BTreeMap<String, String>,
    }
    let folder = if path.is_dir() { Some(path) } else { path.parent().filter(|_| path.exists()) };
    let read = |folder: &Path| {
        let mut text = Vec::new();
        let file = std::fs::File::open(folder.join("config.json")).ok()?;
        file.take(MOST_CONFIG).read_to_end(&mut text).ok()?;
        serde_json::from_slice::<Config>(&text).ok()
    };
    let labels = folder.and_then(read).map(|config| config.id2label).unwrap_or_default();
    let names: Option<Vec<String>> =
        (0..labels.len()).map(|id| labels.get(&id.to_string()).cloned()).collect();
    let chosen =
        |name: &String| name.strip_prefix("LABEL_").is_none_or(|n| n.parse::<u64>().is_err());
    names.filter(|names| names.iter().any(chosen)).unwrap_or_default()
}
