//! What a file is, before anybody else's code reads it: an ONNX model (onnx.proto3, IR 3 and later) with all its weights in
//! it, made of operators that an engine may know (attacks.md SC-12).
//!
//! Only the outline is read: messages of Protocol Buffers, their fields and lengths. The engine reads the rest.

use super::Unfit;

/// How deep graphs may stand in attributes of operators.
const DEPTH: usize = 4;
/// How deep types may stand in one another. Beside graphs nothing else can stand in itself, and an engine reads both by
/// functions that call themselves.
const TYPE_DEPTH: usize = 8;
/// Domains of operators that are not somebody's own: the standard's, and ONNX Runtime's.
const DOMAINS: [&[u8]; 3] = [b"", b"ai.onnx", b"com.microsoft"];

/// Beginnings of other formats, and what is said of them.
const OTHERS: [(&[u8], &str); 15] = [
    (b"\x80\x02", PICKLE),
    (b"\x80\x03", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"\x80\x05", PICKLE),
    (
        b"PK\x03\x04",
        "it is a zip archive, as PyTorch and NumPy write them, with pickles in it; export the model to ONNX",
    ),
    (b"PK\x05\x06", "it is a zip archive; export the model to ONNX"),
    (b"\x1f\x8b", COMPRESSED),
    (b"\xfd7zXZ", COMPRESSED),
    (b"\x28\xb5\x2f\xfd", COMPRESSED),
    (b"BZh", COMPRESSED),
    (b"\x89HDF", "it is an HDF5 file, which can hold programs; export the model to ONNX"),
    (b"RTEN", "it is an .rten file, which this build does not read; use the ONNX file that it was made of"),
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the model: fetch it with `git lfs pull`"),
    (b"<", "it is a page of the web, not the model"),
    (b"{", "it is JSON, not the model"),
];
const PICKLE: &str = "it is a pickle, which runs code when it is opened; export the model to ONNX";
const COMPRESSED: &str = "it is compressed or an archive; unpack it, and pin the model itself";

/// Looks a model through.
///
/// # Errors
/// [`Unfit`]: another format, weights elsewhere, or operators of somebody's own.
pub fn check(bytes: &[u8]) -> Result<(), Unfit> {
    if let Some((_, words)) = OTHERS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Err(Unfit::Format(words));
    }
    if bytes.get(257..262).is_some_and(|magic| magic == b"ustar") {
        return Err(Unfit::Format(COMPRESSED));
    }
    // A length of eight bytes and the JSON that has it.
    if bytes.get(4..9).is_some_and(|head| head == b"\0\0\0\0{") {
        return Err(Unfit::Format(
            "it holds weights alone (safetensors) and no model; export the model to ONNX",
        ));
    }
    let (mut version, mut graphs) = (false, 0);
    for field in Fields(bytes) {
        match field? {
            (1, Value::Number(3..)) => version = true,
            (7, Value::Bytes(graph)) => {
                graphs += 1;
                check_graph(graph, 0)?;
            }
            (20, _) => return Err(Unfit::Format("it is made for training; export it for inference")),
            (25, _) => {
                return Err(Unfit::Format(
                    "it brings functions of its own; export it with its functions inlined",
                ));
            }
            (1 | 7, _) => return Err(BROKEN),
            _ => {}
        }
    }
    if version && graphs == 1 { Ok(()) } else { Err(BROKEN) }
}

const BROKEN: Unfit = Unfit::Format("its bytes are no ONNX model");

/// `GraphProto`
fn check_graph(graph: &[u8], depth: usize) -> Result<(), Unfit> {
    if depth > DEPTH {
        return Err(Unfit::Format("graphs stand in it too deep in one another"));
    }
    for field in Fields(graph) {
        match field? {
            (1, Value::Bytes(node)) => check_node(node, depth)?,
            (5, Value::Bytes(tensor)) => check_tensor(tensor)?,
            // Inputs, outputs and what lies between them.
            (11..=13, Value::Bytes(value)) => check_value(value)?,
            (15, Value::Bytes(sparse)) => check_sparse(sparse)?,
            (1 | 5 | 11..=13 | 15, _) => return Err(BROKEN),
            _ => {}
        }
    }
    Ok(())
}

/// `NodeProto`
fn check_node(node: &[u8], depth: usize) -> Result<(), Unfit> {
    let (mut domain, mut operator): (&[u8], &[u8]) = (b"", b"");
    for field in Fields(node) {
        match field? {
            (4, Value::Bytes(name)) => operator = name,
            (5, Value::Bytes(attribute)) => check_attribute(attribute, depth)?,
            (7, Value::Bytes(name)) => domain = name,
            (4 | 5 | 7, _) => return Err(BROKEN),
            _ => {}
        }
    }
    if DOMAINS.contains(&domain) {
        return Ok(());
    }
    let shown = |name: &[u8]| name.escape_ascii().to_string().chars().take(80).collect();
    Err(Unfit::Operator { domain: shown(domain), operator: shown(operator) })
}

/// `AttributeProto`
fn check_attribute(attribute: &[u8], depth: usize) -> Result<(), Unfit> {
    for field in Fields(attribute) {
        match field? {
            (5 | 10, Value::Bytes(tensor)) => check_tensor(tensor)?,
            (6 | 11, Value::Bytes(graph)) => check_graph(graph, depth + 1)?,
            (14 | 15, Value::Bytes(kind)) => check_type(kind, 0)?,
            (22 | 23, Value::Bytes(sparse)) => check_sparse(sparse)?,
            (5 | 6 | 10 | 11 | 14 | 15 | 22 | 23, _) => return Err(BROKEN),
            _ => {}
        }
    }
    Ok(())
}

/// `ValueInfoProto`
fn check_value(value: &[u8]) -> Result<(), Unfit> {
    for field in Fields(value) {
        match field? {
            (2, Value::Bytes(kind)) => check_type(kind, 0)?,
            (2, _) => return Err(BROKEN),
            _ => {}
        }
    }
    Ok(())
}

/// `TypeProto`, which stands in itself as what a sequence, a map or an optional value is made of.
fn check_type(kind: &[u8], depth: usize) -> Result<(), Unfit> {
    if depth > TYPE_DEPTH {
        return Err(Unfit::Format("types stand in it too deep in one another"));
    }
    for field in Fields(kind) {
        let (inner, element) = match field? {
            (4 | 9, Value::Bytes(inner)) => (inner, 1),
            (5, Value::Bytes(map)) => (map, 2),
            (4 | 5 | 9, _) => return Err(BROKEN),
            _ => continue,
        };
        for field in Fields(inner) {
            match field? {
                (number, Value::Bytes(kind)) if number == element => check_type(kind, depth + 1)?,
                (number, _) if number == element => return Err(BROKEN),
                _ => {}
            }
        }
    }
    Ok(())
}

/// `SparseTensorProto`
fn check_sparse(sparse: &[u8]) -> Result<(), Unfit> {
    for field in Fields(sparse) {
        match field? {
            (1 | 2, Value::Bytes(tensor)) => check_tensor(tensor)?,
            (1 | 2, _) => return Err(BROKEN),
            _ => {}
        }
    }
    Ok(())
}

/// `TensorProto`
fn check_tensor(tensor: &[u8]) -> Result<(), Unfit> {
    for field in Fields(tensor) {
        match field? {
            // Said of each tensor: where its data are.
            (14, Value::Number(0)) => {}
            (13 | 14, _) => return Err(Unfit::External),
            _ => {}
        }
    }
    Ok(())
}

/// The value of a field, as far as it matters here.
enum Value<'b> {
    Number(u64),
    Bytes(&'b [u8]),
    Fixed,
}

/// The fields of a message, with their numbers.
struct Fields<'b>(&'b [u8]);

impl<'b> Iterator for Fields<'b> {
    type Item = Result<(u64, Value<'b>), Unfit>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or(BROKEN))
    }
}

impl<'b> Fields<'b> {
    fn field(&mut self) -> Option<(u64, Value<'b>)> {
        let key = self.number()?;
        let value = match key & 7 {
            0 => Value::Number(self.number()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let length = usize::try_from(self.number()?).ok()?;
                Value::Bytes(self.take(length)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            // Groups are of a time before ONNX.
            _ => return None,
        };
        Some((key >> 3, value))
    }

    /// A varint of at most ten bytes.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = *self.take(1)?.first()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
        [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn model(graph: &[u8]) -> Vec<u8> {
        [&[0x08, 0x08][..], &field(7, graph)].concat()
    }

    /// attacks.md SC-12.
    #[test]
    fn other_formats_are_known_by_their_bytes_whatever_their_name() {
        let pickle = b"\x80\x04\x95\x1c\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.";
        let named = |bytes: &[u8], word: &str| match check(bytes) {
            Err(Unfit::Format(words)) => assert!(words.contains(word), "{words}"),
            other => panic!("{other:?}"),
        };
        named(pickle, "pickle");
        // Protocol 0 has no beginning of its own.
        named(b"cos\nsystem\n(S'id'\ntR.", "no ONNX model");
        named(b"PK\x03\x04\x00\x00archive/data.pkl", "zip");
        named(b"\x1f\x8b\x08", "compressed");
        let tar: Vec<u8> = std::iter::repeat_n(b'a', 257).chain(*b"ustar\0").collect();
        named(&tar, "compressed");
        named(b"\x89HDF\r\n", "HDF5");
        named(b"RTEN\x02", ".rten");
        named(b"\x40\x01\0\0\0\0\0\0{\"__metadata__\"", "safetensors");
        named(b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull");
        named(b"<!doctype html>", "page");
        named(b"", "no ONNX model");
        named(b"\x08\x08", "no ONNX model");
        named(&[model(b""), model(b"")].concat(), "no ONNX model");
        named(&[model(b""), vec![0xca, 0x01, 0x00]].concat(), "functions");
        named(&[model(b""), vec![0xa2, 0x01, 0x00]].concat(), "training");
        check(&model(b"")).unwrap();
    }

    #[test]
    fn whatever_holds_a_tensor_is_looked_into() {
        let elsewhere = field(13, b"\x0a\x00");
        let tensor = |n: u8| field(n, &elsewhere);
        let attribute = |inner: &[u8]| model(&field(1, &field(5, inner)));
        for model in [
            model(&tensor(5)),
            model(&field(5, &[14 << 3, 1])),
            model(&field(15, &tensor(1))),
            attribute(&tensor(5)),
            attribute(&tensor(10)),
            attribute(&field(6, &tensor(5))),
            attribute(&field(11, &tensor(5))),
        ] {
            assert!(matches!(check(&model), Err(Unfit::External)), "{model:?}");
        }
        check(&model(&field(5, &[14 << 3, 0]))).unwrap();
        let deep = (0..8).fold(Vec::new(), |graph, _| field(1, &field(5, &field(6, &graph))));
        assert!(matches!(check(&model(&deep)), Err(Unfit::Format(words)) if words.contains("deep")));
        let own = field(1, &[field(4, b"Launch"), field(7, b"house\n")].concat());
        let Err(Unfit::Operator { domain, operator }) = check(&model(&own)) else { panic!() };
        assert_eq!((domain.as_str(), operator.as_str()), ("house\\n", "Launch"));
    }

    /// An engine that calls itself for each type in a type would run out of stack.
    #[test]
    fn types_are_not_deep_in_one_another() {
        // A sequence's, an optional value's and a map's elements.
        for (holder, element) in [(4, 1), (9, 1), (5, 2)] {
            let deep =
                |times: u8| (0..times).fold(field(1, b""), |inner, _| field(holder, &field(element, &inner)));
            // An input, an output, a value between them, and an attribute's type or one of several.
            let places = |kind: &[u8]| {
                let value = |number: u8| model(&field(number, &field(2, kind)));
                let attribute = |number: u8| model(&field(1, &field(5, &field(number, kind))));
                [value(11), value(12), value(13), attribute(14), attribute(15)]
            };
            for (fits, times) in [(true, 0), (true, 8), (false, 9), (false, 20)] {
                for model in places(&deep(times)) {
                    match check(&model) {
                        Ok(()) => assert!(fits, "{holder}: {times}"),
                        Err(Unfit::Format(words)) => {
                            assert!(!fits && words.contains("types"), "{holder}: {times}: {words}");
                        }
                        other => panic!("{holder}: {times}: {other:?}"),
                    }
                }
            }
        }
        let broken = model(&field(11, &field(2, &[4 << 3, 0])));
        assert!(matches!(check(&broken), Err(Unfit::Format(words)) if words.contains("no ONNX model")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), graph: bool) {
            let bytes = if graph && bytes.len() < 128 { model(&bytes) } else { bytes };
            let _ = check(&bytes);
        }
    }
}
