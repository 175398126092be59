//! Bytes read as something with a structure.

/// Takes an input apart from its front. What it has not got is zero.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or_default()
    }

    pub fn number(&mut self) -> u32 {
        let mut number = [0; 4];
        let bytes = self.bytes(4);
        number[..bytes.len()].copy_from_slice(bytes);
        u32::from_le_bytes(number)
    }

    /// At most so many bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// Bytes with their length, in two bytes, before them.
    pub fn part(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()) | usize::from(self.byte()) << 8;
        self.bytes(length)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Writes what [`Input::part`] reads.
pub fn put_part(out: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).expect("a part is under 64 KiB");
    out.extend(length.to_le_bytes());
    out.extend(part);
}

/// A document of elements that are raw bytes, with its right length.
pub fn document(elements: &[u8]) -> Vec<u8> {
    let length = u32::try_from(elements.len() + 5).expect("an input is small");
    let mut document = length.to_le_bytes().to_vec();
    document.extend(elements);
    document.push(0);
    document
}

/// An element, whatever its value is.
pub fn put_element(out: &mut Vec<u8>, kind: u8, key: &str, value: &[u8]) {
    out.push(kind);
    out.extend(key.bytes());
    out.push(0);
    out.extend(value);
}
