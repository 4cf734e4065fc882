//! The order of modules that lib.rs claims: each uses those above it only.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Modules that never import each other.
const APART: [(&str, &str); 1] = [("train", "engine")];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The modules of lib.rs, in their order.
fn modules() -> Vec<String> {
    let text = std::fs::read_to_string(source().join("lib.rs")).unwrap();
    let declared = |line: &str| {
        let rest = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        Some(rest.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    text.lines().filter_map(declared).collect()
}

/// The files of a module, with how deep below the root of the crate their items stand.
fn files(path: &Path, depth: usize, found: &mut Vec<(PathBuf, usize)>) {
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            files(&path, depth + 1, found);
        } else if path.extension().is_some_and(|e| e == "rs") && name != "tests" {
            found.push((path, if name == "mod" { depth } else { depth + 1 }));
        }
    }
}

/// Code alone: without comments, texts and what `#[cfg(test)]` guards.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start().starts_with("#[cfg(test)]") {
            // An item ends where the braces that it opens are closed, or at its semicolon.
            let mut open = 0;
            for line in lines.by_ref() {
                let line = bare(line);
                let count = |c| line.matches(c).count() as i64;
                open += count('{') - count('}');
                if open == 0 && line.trim_end().ends_with([';', '}']) {
                    break;
                }
            }
            continue;
        }
        code.push_str(&bare(line));
        code.push('\n');
    }
    code
}

/// A line without a comment, texts and characters in quotes.
fn bare(line: &str) -> String {
    let mut bare = String::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => break,
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '\'' => {
                // A character, not a lifetime.
                let rest: Vec<char> = chars.clone().take(3).collect();
                match rest[..] {
                    ['\\', _, '\''] => drop(chars.nth(2)),
                    [_, '\'', ..] => drop(chars.nth(1)),
                    _ => {}
                }
            }
            c => bare.push(c),
        }
    }
    bare
}

/// The modules of the crate's root that code at a depth names: by `crate::`, by as many `super::` as
/// lead to the root, or in braces after either.
fn used(code: &str, depth: usize) -> BTreeSet<String> {
    let code: String = code.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut names = BTreeSet::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&root) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || ['_', ':', '$'].contains(&before) {
                continue;
            }
            let rest = &code[at + root.len()..];
            match rest.strip_prefix('{') {
                Some(list) => names.extend(heads(list)),
                None => names.extend(head(rest)),
            }
        }
    }
    names
}

fn head(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

/// The first names of a list of paths, up to its closing brace.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.extend(head(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Every use of one module by another, with a file that has it.
fn uses() -> Vec<(String, String, PathBuf)> {
    let modules = modules();
    let mut uses = Vec::new();
    for module in &modules {
        let mut found = Vec::new();
        let (folder, file) = (source().join(module), source().join(format!("{module}.rs")));
        if file.exists() {
            found.push((file, 1));
        }
        if folder.exists() {
            files(&folder, 1, &mut found);
        }
        for (path, depth) in found {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = used(&code(&text), depth);
            let others = names.into_iter().filter(|name| name != module && modules.contains(name));
            uses.extend(others.map(|name| (module.clone(), name, path.clone())));
        }
    }
    uses
}

#[test]
fn modules_use_only_those_above_them() {
    let modules = modules();
    assert!(modules.len() > 15, "{modules:?}");
    let place = |name: &str| modules.iter().position(|module| module == name).unwrap();
    let back: Vec<_> =
        uses().into_iter().filter(|(module, used, _)| place(module) < place(used)).collect();
    let told: Vec<String> = back
        .iter()
        .map(|(module, used, path)| {
            format!("{}: {module} uses {used}, which stands below it", path.display())
        })
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn some_modules_stay_apart() {
    for (a, b) in APART {
        for (module, used, path) in uses() {
            let pair = (module.as_str(), used.as_str());
            assert!(pair != (a, b) && pair != (b, a), "{}: {a} and {b}", path.display());
        }
    }
}

#[test]
fn uses_are_found_however_they_are_written() {
    let names = |text: &str, depth| used(&code(text), depth).into_iter().collect::<Vec<_>>();
    assert_eq!(names("use crate::one::A;\nlet b = crate::two::b();", 1), ["one", "two"]);
    assert_eq!(
        names("use crate::{\n  one::{A, B},\n  two, three::C,\n};", 1),
        ["one", "three", "two"]
    );
    assert_eq!(names("use super::super::one::A;", 2), ["one"]);
    assert_eq!(names("use super::sibling::A;", 2), [""; 0]);
    assert_eq!(names("// crate::one\nlet a = \"crate::two\";", 1), [""; 0]);
    let tests =
        "#[cfg(test)]\nmod tests {\n  use crate::one::A;\n  fn f() { '}' }\n}\nuse crate::two;";
    assert_eq!(names(tests, 1), ["two"]);
    assert_eq!(names("#[cfg(test)]\nuse crate::one::A;\nuse crate::two;", 1), ["two"]);
}
