//! The header of a .npy file: a Python dict literal with three keys.

use super::element::{Element, Kind};

/// NumPy's own limit on dimensions.
pub(super) const MAX_RANK: usize = 64;

/// The element type, the shape, and whether the first index runs fastest; or what is wrong.
pub(super) fn parse(header: &[u8]) -> Result<(Element, Vec<u64>, bool), String> {
    Literal(header).header()
}

/// What is left of a Python literal.
struct Literal<'a>(&'a [u8]);

impl<'a> Literal<'a> {
    fn header(mut self) -> Result<(Element, Vec<u64>, bool), String> {
        let (mut element, mut dims, mut fortran_order) = (None, None, None);
        self.expect("{")?;
        while !self.take("}") {
            let key = self.string()?;
            self.expect(":")?;
            match key {
                "descr" if element.is_none() => element = Some(self.element()?),
                "shape" if dims.is_none() => dims = Some(self.tuple()?),
                "fortran_order" if fortran_order.is_none() => fortran_order = Some(self.boolean()?),
                _ => return Err(format!("key {key:?} is repeated or not known")),
            }
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        if !self.rest().is_empty() {
            return Err(self.expected("the end of the header"));
        }
        Ok((
            element.ok_or("'descr' is missing")?,
            dims.ok_or("'shape' is missing")?,
            fortran_order.ok_or("'fortran_order' is missing")?,
        ))
    }

    fn element(&mut self) -> Result<Element, String> {
        if self.rest().starts_with(b"[") {
            return Err("structured arrays are not read, save one field as an array".into());
        }
        let descr = self.string()?;
        element(descr).ok_or_else(|| {
            format!("element type {descr:?} is not read, convert the array to float32 ('<f4')")
        })
    }

    fn tuple(&mut self) -> Result<Vec<u64>, String> {
        let mut dims = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            if dims.len() == MAX_RANK {
                return Err(format!("more than {MAX_RANK} dimensions"));
            }
            dims.push(self.integer()?);
            if !self.take(",") {
                if dims.len() == 1 {
                    return Err(self.expected("a comma"));
                }
                self.expect(")")?;
                break;
            }
        }
        Ok(dims)
    }

    fn integer(&mut self) -> Result<u64, String> {
        let text = self.rest();
        let digits = text.iter().take_while(|b| b.is_ascii_digit()).count();
        let number = text[..digits]
            .iter()
            .try_fold(0u64, |n, b| n.checked_mul(10)?.checked_add(u64::from(b - b'0')));
        match number.filter(|_| digits > 0) {
            Some(number) => {
                self.0 = &text[digits..];
                Ok(number)
            }
            None => Err(self.expected("a dimension")),
        }
    }

    fn boolean(&mut self) -> Result<bool, String> {
        if self.take("True") {
            return Ok(true);
        }
        if self.take("False") { Ok(false) } else { Err(self.expected("True or False")) }
    }

    /// A string without escapes.
    fn string(&mut self) -> Result<&'a str, String> {
        let text = self.rest();
        if let [quote @ (b'\'' | b'"'), body @ ..] = text
            && let Some(end) = body.iter().position(|b| b == quote)
            && let Ok(string) = str::from_utf8(&body[..end])
            && !string.contains('\\')
        {
            self.0 = &body[end + 1..];
            return Ok(string);
        }
        Err(self.expected("a string"))
    }

    fn take(&mut self, token: &str) -> bool {
        match self.rest().strip_prefix(token.as_bytes()) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(self.expected(token)) }
    }

    fn expected(&self, what: &str) -> String {
        match self.rest() {
            [] => format!("expected {what}, found the end"),
            rest => format!("expected {what} at \"{}\"", rest[..rest.len().min(16)].escape_ascii()),
        }
    }

    /// The text from the next character that is not white.
    fn rest(&self) -> &'a [u8] {
        self.0.trim_ascii_start()
    }
}

/// The element type of a `descr` such as `<f4`.
fn element(descr: &str) -> Option<Element> {
    let kind = match descr.get(1..)? {
        "b1" => Kind::Bool,
        "u1" => Kind::U8,
        "i1" => Kind::I8,
        "u2" => Kind::U16,
        "i2" => Kind::I16,
        "u4" => Kind::U32,
        "i4" => Kind::I32,
        "u8" => Kind::U64,
        "i8" => Kind::I64,
        "f2" => Kind::F16,
        "f4" => Kind::F32,
        "f8" => Kind::F64,
        _ => return None,
    };
    let order = descr.as_bytes()[0];
    let known = matches!(order, b'<' | b'>') || (order == b'|' && kind.size() == 1);
    known.then_some(Element { kind, big_endian: order == b'>' })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(header: &str) -> String {
        parse(header.as_bytes()).unwrap_err()
    }

    #[test]
    fn good_headers() {
        let f4 = Element { kind: Kind::F32, big_endian: false };
        for (header, dims, fortran_order) in [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }  \n", &[2, 3][..], false),
            ("{\"shape\":(7,),'fortran_order' : True,'descr':'<f4'}", &[7], true),
            (" { 'descr': '<f4', 'fortran_order': False, 'shape': ( ) }", &[], false),
        ] {
            assert_eq!(parse(header.as_bytes()), Ok((f4, dims.to_vec(), fortran_order)));
        }
    }

    #[test]
    fn element_types() {
        for descr in "<f2 >f2 <f4 >f4 <f8 >f8 |u1 |i1 |b1 <i2 <i4 <i8 <u2 <u4 <u8 >i8".split(' ') {
            assert!(element(descr).is_some(), "{descr}");
        }
        for descr in ["", "<", "f4", "|f4", "=f4", "<f16", "<c8", "|O", "|S3", "<U3", "é4"] {
            assert!(element(descr).is_none(), "{descr}");
        }
    }

    #[test]
    fn truncation_at_every_length_is_an_error() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
        for length in 0..header.len() {
            assert!(problem(&header[..length]).starts_with("expected "), "{length}");
        }
    }

    #[test]
    fn bad_headers() {
        let with = |descr: &str, order: &str, shape: &str| {
            problem(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"))
        };
        for (found, expected) in [
            (problem(""), "expected {, found the end"),
            (problem("{}"), "'descr' is missing"),
            (problem("{'descr': '<f4'}"), "'shape' is missing"),
            (problem("{'descr': '<f4', 'shape': ()}"), "'fortran_order' is missing"),
            (problem("{'x': 1}"), "key \"x\" is repeated or not known"),
            (problem("{'shape': (), 'shape': ()}"), "key \"shape\" is repeated or not known"),
            (problem("{1: 2}"), "expected a string at \"1: 2}\""),
            (problem("{'descr\\n': 2}"), "expected a string at \"\\'descr\\\\n\\': 2}\""),
            (with("'<f4'", "True", "()} \n {"), "expected the end of the header at \"{}\""),
            (with("'<f4'", "1", "()"), "expected True or False at \"1, \\'shape\\': ()}\""),
            (with("'<f4'", "True", "(3)"), "expected a comma at \")}\""),
            (with("'<f4'", "True", "(-3,)"), "expected a dimension at \"-3,)}\""),
            (with("'<f4'", "True", "(3, 4 5)"), "expected ) at \"5)}\""),
            (
                with("'<f4'", "True", "(99999999999999999999,)"),
                "expected a dimension at \"9999999999999999\"",
            ),
            (with("'<f4'", "True", &format!("({})", "1,".repeat(65))), "more than 64 dimensions"),
            (
                with("'<c8'", "True", "()"),
                "element type \"<c8\" is not read, convert the array to float32 ('<f4')",
            ),
            (
                with("[('a', '<f4')]", "True", "()"),
                "structured arrays are not read, save one field as an array",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }
}
