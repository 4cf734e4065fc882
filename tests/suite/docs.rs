//! README and docs/: every `sh` block runs as written, every link leads somewhere, every page is in the book.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixtures;

/// The README and the pages of the book.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let book = std::fs::read_dir(root.join("docs/src")).unwrap().map(|file| file.unwrap().path());
    let mut pages: Vec<PathBuf> =
        book.filter(|p| p.extension().is_some_and(|e| e == "md")).collect();
    pages.sort();
    pages.insert(0, root.join("README.md"));
    pages
}

/// The blocks of a page that are marked so, and no more.
fn blocks(text: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        if info == mark {
            found.push(block.join("\n"));
        }
    }
    found
}

/// Page by page in a folder of its own, as a newcomer would in a clone.
#[test]
fn blocks_run_as_written() {
    let programs = Path::new(env!("CARGO_BIN_EXE_svdo")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut count = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(fixtures::path(""), folder.path().join("fixtures")).unwrap();
        for block in blocks(&text, "sh") {
            let output = Command::new("bash")
                .args(["-euo", "pipefail", "-c", &block])
                .current_dir(folder.path())
                .env("PATH", format!("{}:{path}", programs.display()))
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}:\n{block}\n{said}", page.display());
            count += 1;
        }
    }
    assert!(count > 10, "{count} blocks");
}

#[test]
fn links_lead_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            if file.is_empty() || link.contains("://") {
                continue;
            }
            assert!(page.with_file_name(file).exists(), "{}: {link}", page.display());
        }
    }
}

#[test]
fn every_page_is_in_the_book() {
    let [readme, pages @ ..] = &pages()[..] else { panic!("no pages") };
    let summary = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/SUMMARY.md");
    let summary = std::fs::read_to_string(summary).unwrap();
    for page in pages.iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        let name = page.file_name().unwrap().to_str().unwrap();
        assert!(summary.contains(&format!("({name})")), "{name}");
    }
    let lines = std::fs::read_to_string(readme).unwrap().lines().count();
    assert!(lines <= 120, "README.md has {lines} lines");
}
