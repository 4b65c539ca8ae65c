//! Secrets, from files and stdin: what stands in a command line stands in every process list, so none is taken there.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use reachback_wire::secret::Secret;

use crate::{exit::Failure, limits};

/// A secret of one line from `path`, or from stdin for `-`; blanks and line breaks around it are no part of it.
///
/// # Errors
/// The file can't be read, is empty, too long, or holds more than one line; the refusal never shows what it holds.
pub(crate) fn read(path: &Path, what: &str) -> Result<Secret, Failure> {
    read_if_any(path, what)?
        .ok_or_else(|| Failure::config(format_args!("{what} {}: it is empty", path.display())))
}

/// The same, where nothing in the file means that there is no secret.
///
/// # Errors
/// As [`read`], but for an empty file.
pub(crate) fn read_if_any(path: &Path, what: &str) -> Result<Option<Secret>, Failure> {
    let wrong =
        |why: &dyn std::fmt::Display| Failure::config(format_args!("{what} {}: {why}", path.display()));
    let text = text(path).map_err(|error| wrong(&error))?;
    if text.len() > limits::SECRET_FILE {
        return Err(wrong(&format_args!(
            "it is longer than {} bytes; is it the right file?",
            limits::SECRET_FILE
        )));
    }
    let secret = text.trim();
    if secret.lines().count() > 1 {
        return Err(wrong(&"it holds more than one line; is it the right file?"));
    }
    Ok((!secret.is_empty()).then(|| Secret::new(secret.to_owned())))
}

/// A shared secret: what is short could be tried out by whoever has seen one proof.
///
/// # Errors
/// As [`read`], or it is too short.
pub(crate) fn shared(path: &Path) -> Result<Secret, Failure> {
    let secret = read(path, "--secret-file")?;
    if secret.expose().len() < limits::SHARED_SECRET_MIN {
        return Err(Failure::config(format_args!(
            "--secret-file {}: shorter than {} characters, so it could be guessed; make one: \
             head -c 32 /dev/urandom | base64",
            path.display(),
            limits::SHARED_SECRET_MIN
        )));
    }
    Ok(secret)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = limits::SECRET_FILE as u64 + 1;
    match path.to_str() {
        Some("-") => io::stdin().lock().take(most).read_to_string(&mut text)?,
        _ => File::open(path)?.take(most).read_to_string(&mut text)?,
    };
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn one_line_is_taken_and_what_is_wrong_is_said_without_it() {
        let right = file(b"  0123456789abcdef\n");
        assert_eq!(read(right.path(), "--token-file").unwrap().expose(), "0123456789abcdef");
        assert_eq!(shared(right.path()).unwrap().expose(), "0123456789abcdef");
        for (content, why) in [
            (&b"\n"[..], "empty"),
            (b"swordfish\nswordfish\n", "more than one line"),
            (&[b'x'; limits::SECRET_FILE + 1], "longer than"),
            (b"swordfish\xff", "UTF-8"),
            (b"swordfish", "could be guessed"),
        ] {
            let wrong = file(content);
            let refusal = shared(wrong.path()).unwrap_err().to_string();
            assert!(refusal.contains(why) && !refusal.contains("swordfish"), "{why}: {refusal}");
            assert!(refusal.contains(&wrong.path().display().to_string()), "{refusal}");
        }
        assert!(read_if_any(file(b" \n").path(), "--join-file").unwrap().is_none());
        assert!(
            read(Path::new("/nowhere/token"), "--token-file")
                .unwrap_err()
                .to_string()
                .contains("/nowhere/token")
        );
    }
}
