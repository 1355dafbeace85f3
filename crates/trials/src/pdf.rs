//! Small PDF documents (ISO 32000-2), as the trials need them.

/// One page, in Helvetica, that paints `content` (operators of §8 and §9), with `more` in the catalogue. The font is `/F1`,
/// and `/L` is a layer, object 6.
pub fn page(content: &str, more: &str) -> Vec<u8> {
    document(&[
        format!("<< /Type /Catalog /Pages 2 0 R {more} >>").into_bytes(),
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>".to_vec(),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
          /Resources << /Font << /F1 5 0 R >> /Properties << /L 6 0 R >> >> >>"
            .to_vec(),
        stream("", content.as_bytes()),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>".to_vec(),
        b"<< /Type /OCG /Name (notes) >>".to_vec(),
    ])
}

/// A stream with `more` in its dictionary.
pub fn stream(more: &str, content: &[u8]) -> Vec<u8> {
    let mut out = format!("<< /Length {} {more} >>\nstream\n", content.len()).into_bytes();
    out.extend(content);
    out.extend(b"\nendstream");
    out
}

/// A document of these objects, numbered from 1, the first of which is its catalogue.
pub fn document(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n".to_vec();
    let mut places = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        places.push(out.len());
        out.extend(format!("{} 0 obj\n", number + 1).bytes());
        out.extend(object);
        out.extend(b"\nendobj\n");
    }
    let (table, size) = (out.len(), objects.len() + 1);
    out.extend(format!("xref\n0 {size}\n0000000000 65535 f \n").bytes());
    for place in places {
        out.extend(format!("{place:010} 00000 n \n").bytes());
    }
    out.extend(format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n").bytes());
    out
}
