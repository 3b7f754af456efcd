//! The tar archives in which the engine hands out files (POSIX ustar): enough to take one file out.

const BLOCK: usize = 512;
const SIZE: std::ops::Range<usize> = 124..136;
const TYPE: usize = 156;

/// The content of the file that was asked for; `None` of a directory. Extended headers before it are passed over.
pub(super) fn file(archive: &[u8]) -> Option<&[u8]> {
    let mut rest = archive;
    loop {
        let header = rest.get(..BLOCK)?;
        let size = octal(&header[SIZE])?;
        let content = rest.get(BLOCK..BLOCK.checked_add(size)?)?;
        match header[TYPE] {
            // Two empty blocks end an archive; their type is zero, too.
            b'0' | 0 if header[0] != 0 => return Some(content),
            b'5' | 0 => return None,
            _ => rest = rest.get(BLOCK.checked_add(size.next_multiple_of(BLOCK))?..)?,
        }
    }
}

fn octal(field: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(field).ok()?.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { usize::from_str_radix(text, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut packed = vec![0; BLOCK];
        packed[..name.len()].copy_from_slice(name.as_bytes());
        packed[SIZE][..11].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        packed[TYPE] = kind;
        packed.extend_from_slice(content);
        packed.resize(packed.len().next_multiple_of(BLOCK), 0);
        packed
    }

    #[test]
    fn the_file_is_found_behind_extended_headers() {
        let content = [b'x'; 700];
        let mut archive = entry("pax", b'x', b"30 mtime=1.5\n");
        archive.extend(entry("token", b'0', &content));
        archive.extend(vec![0; 2 * BLOCK]);
        assert_eq!(file(&archive), Some(&content[..]));
    }

    #[test]
    fn a_directory_is_no_file_nor_is_what_is_cut_off_or_empty() {
        let mut archive = entry("d", b'5', b"");
        archive.extend(entry("d/token", b'0', b"secret"));
        archive.extend(vec![0; 2 * BLOCK]);
        assert_eq!(file(&archive), None);
        assert_eq!(file(&[]), None);
        let whole = entry("token", b'0', &[1; 600]);
        assert_eq!(file(&whole[..BLOCK + 599]), None);
        assert_eq!(file(&whole[..BLOCK + 600]), Some(&[1; 600][..]));
    }
}
