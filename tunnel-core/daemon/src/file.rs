//! Files: bounded reads, and writes that are there as a whole or not at all.

#[cfg(unix)]
use std::fs;
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Once,
};

use anyhow::Context;
use zeroize::Zeroizing;

/// Who may read a file that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Mode 0600 from the first moment.
    Owner,
    /// Mode 0644.
    All,
}

/// What happens to a file that is already there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and writing fails with [`io::ErrorKind::AlreadyExists`].
    Keep,
    /// It is replaced in one step.
    Replace,
}

/// Writes a file so that a crash leaves either nothing new or all of it. Made by root, it belongs to the owner of its
/// directory, so that a service of that user can read what an administrator made.
///
/// A file system that cannot promise so much (a folder that a virtual machine or another system shares) is asked for
/// what it can, and the log says what it cannot.
pub fn write(path: &Path, content: &str, access: Access, existing: Existing) -> io::Result<()> {
    let dir = directory_of(path);
    let mut builder = tempfile::Builder::new();
    builder.prefix(".adit-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = match access {
            Access::Owner => 0o600,
            Access::All => 0o644,
        };
        builder.permissions(fs::Permissions::from_mode(mode));
    }
    #[cfg(not(unix))]
    let _ = access;
    let mut temporary = builder.tempfile_in(dir)?;
    temporary.write_all(content.as_bytes())?;
    give_to_owner_of(dir, temporary.as_file())?;
    asked(dir, temporary.as_file().sync_all())?;
    match existing {
        Existing::Keep => match temporary.persist_noclobber(path) {
            // It has neither links nor a renaming that keeps what is there: the name is taken first.
            Err(refused) if is_beyond(&refused.error) => {
                File::create_new(path)?;
                refused.file.persist(path)
            }
            done => done,
        },
        Existing::Replace => temporary.persist(path),
    }
    .map_err(|e| e.error)?;
    if cfg!(unix) {
        // Makes the file's new name last.
        asked(dir, File::open(dir).and_then(|dir| dir.sync_all()))?;
    }
    Ok(())
}

/// What a file system answered to being asked to make something in `dir` last through a power cut.
fn asked(dir: &Path, answer: io::Result<()>) -> io::Result<()> {
    static SAID: Once = Once::new();
    match answer {
        Err(error) if is_beyond(&error) => {
            SAID.call_once(|| {
                tracing::warn!(
                    "the file system of {} cannot make files last through a power cut ({error}): a crash of this \
                     machine may lose what is written there",
                    dir.display()
                );
            });
            Ok(())
        }
        answer => answer,
    }
}

/// Whether a file system says that it has no such thing, and not that the thing failed.
fn is_beyond(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    // EINVAL, EPERM, ENOSYS; and EOPNOTSUPP on Linux, which not every version of Rust has a kind for.
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
        || cfg!(target_os = "linux") && error.raw_os_error() == Some(95)
}

/// What root makes takes the owner of its directory. Nothing changes for others.
#[cfg(unix)]
pub fn give_to_owner_of(dir: &Path, file: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, fchown};
    let own = file.metadata()?;
    let dir = fs::metadata(dir)?;
    if own.uid() == 0 && (dir.uid(), dir.gid()) != (own.uid(), own.gid()) {
        fchown(file, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(())
}

/// Files belong to whoever made them.
#[cfg(not(unix))]
pub fn give_to_owner_of(_dir: &Path, _file: &File) -> io::Result<()> {
    Ok(())
}

/// Reads a text of at most `limit` bytes; a longer one is an error, whatever its length.
pub fn read(path: &Path, limit: u64) -> io::Result<Zeroizing<String>> {
    bounded(File::open(path)?, limit)
}

/// Reads a stream to its end; more than `limit` bytes of text is an error. A byte-order mark at its start is passed over.
/// The text is wiped when it is dropped: it may be a secret.
pub fn bounded(from: impl Read, limit: u64) -> io::Result<Zeroizing<String>> {
    // A secret has room in it, so that no copy is left behind when it grows.
    let mut bytes = Zeroizing::new(Vec::with_capacity(4 * KEY_FILE_LIMIT as usize));
    from.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {limit} bytes"),
        ));
    }
    let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if is_utf_16(&bytes) {
        return Err(wrong("UTF-16 text: save it as UTF-8"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong("not UTF-8 text"))?;
    Ok(Zeroizing::new(text.trim_start_matches(BOM).to_owned()))
}

/// Whether it is what Windows calls Unicode: with a mark at its start, or with every other byte zero as far as its first
/// characters go.
fn is_utf_16(bytes: &[u8]) -> bool {
    match bytes {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [a, b, c, d, ..] => {
            matches!([*a != 0, *b != 0, *c != 0, *d != 0], [x, y, z, w] if x != y && x == z && y == w)
        }
        _ => false,
    }
}

/// Reads a key from its file.
pub fn read_key<T>(path: &Path) -> anyhow::Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text = read(path, KEY_FILE_LIMIT)
        .with_context(|| format!("cannot read the key file {}", path.display()))?;
    text.parse()
        .with_context(|| format!("the key file {} is damaged", path.display()))
}

/// What is wrong with who may read a secret file, if anything.
#[cfg(unix)]
pub fn readable_by_others(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0).then(|| {
        format!(
            "{} is secret, but its mode {mode:04o} lets others in: chmod 600 it",
            path.display()
        )
    })
}

/// Modes are a matter of Unix.
#[cfg(not(unix))]
pub fn readable_by_others(_path: &Path) -> Option<String> {
    None
}

/// The directory that holds a file, `.` for a bare name.
pub fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// `path` as written in a file of `dir`: relative paths start there.
pub fn relative_to(dir: &Path, path: &str) -> PathBuf {
    // Joining with `.` would show `./relay.key` to the operator.
    if dir == Path::new(".") {
        PathBuf::from(path)
    } else {
        dir.join(path)
    }
}

const BOM: char = '\u{feff}';
/// A key is 43 characters; 1 KiB leaves room for stray white space, and none for the wrong file.
const KEY_FILE_LIMIT: u64 = 1024;

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn a_file_that_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        write(&path, "first", Access::Owner, Existing::Keep).unwrap();
        let error = write(&path, "second", Access::Owner, Existing::Keep).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        write(&path, "third", Access::Owner, Existing::Replace).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "third");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        if fs::metadata(dir.path()).unwrap().uid() != 0 {
            return; // Only root can give files away.
        }
        std::os::unix::fs::chown(dir.path(), Some(65_534), Some(65_534)).unwrap();
        let path = dir.path().join("a.key");
        write(&path, "x", Access::Owner, Existing::Keep).unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.uid(), made.gid()), (65_534, 65_534));
    }

    #[test]
    fn a_secret_that_others_can_read_is_remarked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        write(&path, "x", Access::Owner, Existing::Keep).unwrap();
        assert_eq!(readable_by_others(&path), None);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(readable_by_others(&path).unwrap().contains("0640"));
    }

    #[test]
    fn text_that_tools_have_written_is_read_or_named() {
        let read = |bytes: &[u8]| bounded(bytes, 100);
        for (bytes, text) in [
            (&b"\xef\xbb\xbfa = 1\r\n"[..], "a = 1\r\n"),
            (b"", ""),
            (b"a", "a"),
            (b"a\0\0b", "a\0\0b"),
        ] {
            assert_eq!(read(bytes).unwrap().as_str(), text);
        }
        for bytes in [
            &b"\xff\xfea\0d\0"[..],
            b"\xfe\xff\0a\0d",
            b"\xff\xfe",
            b"a\0d\0i\0t\0",
            b"\0a\0d\0i\0t",
        ] {
            let error = read(bytes).unwrap_err().to_string();
            assert!(error.contains("UTF-16 text: save it as UTF-8"), "{error}");
        }
        assert_eq!(read(b"\xff").unwrap_err().to_string(), "not UTF-8 text");
    }

    #[test]
    fn what_a_file_system_cannot_do_is_no_failure_and_what_fails_is() {
        let answer = |number| asked(Path::new("."), Err(io::Error::from_raw_os_error(number)));
        // EINVAL, ENOSYS, EOPNOTSUPP, EPERM.
        for beyond in [22, 38, 95, 1] {
            assert!(answer(beyond).is_ok(), "{beyond}");
        }
        // EIO, ENOSPC.
        for failed in [5, 28] {
            assert!(answer(failed).is_err(), "{failed}");
        }
    }

    #[test]
    fn reading_is_bounded() {
        assert_eq!(bounded(&b"1234"[..], 4).unwrap().as_str(), "1234");
        let error = bounded(io::repeat(b'x'), 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
