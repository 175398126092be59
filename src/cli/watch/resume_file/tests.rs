use std::io::ErrorKind;

use super::*;

fn orders() -> Scope {
    "shop.orders".parse().unwrap()
}

fn names_in(folder: &Path) -> Vec<String> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[test]
fn the_last_token_is_stored_and_no_other_file_remains() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut file = ResumeFile::open(path.clone(), &orders()).unwrap();
    assert_eq!(file.stored(), None);
    assert_eq!(file.due(), None);
    file.write().unwrap();
    assert!(!path.exists(), "there was no token to write");

    for token in [&b"one"[..], b"two"] {
        file.set_token(Bytes::from_static(b"before"));
        file.set_token(Bytes::copy_from_slice(token));
        assert!(file.due().is_some());
        file.write().unwrap();
        assert_eq!(file.due(), None);
        let again = ResumeFile::open(path.clone(), &orders()).unwrap();
        assert_eq!(again.stored().unwrap(), token);
    }
    assert_eq!(names_in(folder.path()), ["token"]);
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "{\"version\":1,\"scope\":{\"database\":\"shop\",\"collections\":[\"orders\"]},\
         \"resumeToken\":\"dHdv\"}\n"
    );
}

#[test]
fn readers_see_the_old_or_the_new_content_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut file = ResumeFile::open(path.clone(), &orders()).unwrap();
    file.set_token(Bytes::from(vec![0; 4096]));
    file.write().unwrap();
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            for byte in 1..=50 {
                file.set_token(Bytes::from(vec![byte; 4096]));
                file.write().unwrap();
            }
        });
        while !writer.is_finished() {
            let token = ResumeFile::open(path.clone(), &orders()).unwrap();
            let token = token.stored().unwrap();
            assert!(token.len() == 4096 && token.iter().all(|byte| *byte == token[0]));
        }
    });
}

#[test]
fn a_second_write_is_delayed() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = ResumeFile::open(folder.path().join("token"), &orders()).unwrap();
    file.set_token(Bytes::from_static(b"one"));
    assert!(file.due().unwrap() <= Instant::now());
    file.write().unwrap();
    file.set_token(Bytes::from_static(b"two"));
    assert!(file.due().unwrap() > Instant::now() + WRITE_INTERVAL / 2);
}

#[test]
fn a_file_of_another_scope_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut file = ResumeFile::open(path.clone(), &orders()).unwrap();
    file.set_token(Bytes::from_static(b"one"));
    file.write().unwrap();
    let error = ResumeFile::open(path, &"shop.users".parse().unwrap()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("a token of shop.orders"), "{text}");
    assert!(text.contains("this watch is of shop.users"), "{text}");
    assert!(text.contains("delete this one"), "{text}");
}

#[test]
fn the_order_of_collections_does_not_matter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let mut file = ResumeFile::open(path.clone(), &"shop.a,b".parse().unwrap()).unwrap();
    file.set_token(Bytes::from_static(b"one"));
    file.write().unwrap();
    assert!(ResumeFile::open(path, &"shop.b,a".parse().unwrap()).is_ok());
}

#[test]
fn a_broken_file_is_refused_and_not_treated_as_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    for content in [
        "",
        "{",
        "{\"version\":2,\"scope\":{\"database\":\"shop\",\"collections\":[\"orders\"]},\
         \"resumeToken\":\"dHdv\"}",
        "{\"version\":1,\"scope\":{\"database\":\"shop\",\"collections\":[\"orders\"]},\
         \"resumeToken\":\"\"}",
    ] {
        std::fs::write(&path, content).unwrap();
        let error = ResumeFile::open(path.clone(), &orders()).unwrap_err();
        assert!(
            matches!(error, ResumeFileError::Unreadable { .. }),
            "{content}"
        );
    }
}

/// The system's calls, with some that fail as on special files.
fn calls(
    create_in: Option<fn(&Path) -> std::io::Result<tempfile::NamedTempFile>>,
    rename: Option<fn(&Path, &Path) -> std::io::Result<()>>,
) -> Calls {
    Calls {
        create_in: create_in.unwrap_or(Calls::SYSTEM.create_in),
        rename: rename.unwrap_or(Calls::SYSTEM.rename),
    }
}

fn failing_renames() -> [(ErrorKind, Calls); 4] {
    [
        (
            ErrorKind::ResourceBusy,
            calls(None, Some(|_, _| Err(ErrorKind::ResourceBusy.into()))),
        ),
        (
            ErrorKind::CrossesDevices,
            calls(None, Some(|_, _| Err(ErrorKind::CrossesDevices.into()))),
        ),
        (
            ErrorKind::PermissionDenied,
            calls(Some(|_| Err(ErrorKind::PermissionDenied.into())), None),
        ),
        (
            ErrorKind::ReadOnlyFilesystem,
            calls(Some(|_| Err(ErrorKind::ReadOnlyFilesystem.into())), None),
        ),
    ]
}

fn write(file: &mut ResumeFile, token: &'static [u8]) {
    file.set_token(Bytes::from_static(token));
    file.write().unwrap();
}

fn stored_at(path: &Path) -> Bytes {
    let file = ResumeFile::open(path.to_owned(), &orders()).unwrap();
    file.stored().unwrap().clone()
}

#[test]
fn a_file_that_cannot_be_replaced_is_written_in_place() {
    for (kind, calls) in failing_renames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        write(
            &mut ResumeFile::open(path.clone(), &orders()).unwrap(),
            b"one",
        );
        let inode = std::fs::File::open(&path).unwrap();

        let mut file = ResumeFile::open_with(path.clone(), &orders(), calls).unwrap();
        assert_eq!(file.stored().unwrap(), &b"one"[..], "{kind}");
        assert!(
            file.told_in_place,
            "{kind}: it is said before the watch opens"
        );
        for token in [&b"a longer token"[..], b"2", b"three"] {
            write(&mut file, token);
            assert_eq!(stored_in(&inode), token, "{kind}: it is the same file");
        }
        assert_eq!(names_in(folder.path()), ["token"], "{kind}");
        assert_eq!(stored_at(&path), &b"three"[..], "{kind}");
    }
}

/// Returns the token in the file, whatever has its name now.
fn stored_in(file: &std::fs::File) -> Bytes {
    use std::io::{Read as _, Seek as _};
    let mut file = file.try_clone().unwrap();
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    parse(Path::new("token"), &bytes, &orders()).unwrap()
}

/// A file has to exist before it can be mounted into a container.
#[test]
fn an_empty_file_that_cannot_be_deleted_is_one_without_a_token() {
    for (kind, calls) in failing_renames() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for content in ["", "\n"] {
            std::fs::write(&path, content).unwrap();
            let mut file = ResumeFile::open_with(path.clone(), &orders(), calls).unwrap();
            assert_eq!(file.stored(), None, "{kind}");
            write(&mut file, b"one");
            assert_eq!(stored_at(&path), &b"one"[..], "{kind}");
        }
    }
}

#[test]
fn a_crash_in_place_leaves_a_file_that_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let line = |token: &[u8]| {
        let file = ResumeFile::open(folder.path().join("other"), &orders()).unwrap();
        String::from_utf8(file.line(token).unwrap()).unwrap()
    };
    let (old, new) = (line(b"old"), line(b"new"));
    for (content, token) in [
        (format!("{old}\n{}", &new[..20]), &b"old"[..]),
        (format!("{old}\n{new}"), b"new"),
        (format!("{}{}\n{new}", &new[..20], &old[20..]), b"new"),
        (format!("{new}\n{new}"), b"new"),
    ] {
        std::fs::write(&path, &content).unwrap();
        assert_eq!(stored_at(&path), token, "{content:?}");
    }
}

#[cfg(unix)]
#[test]
fn a_symbolic_link_stays_one_and_its_target_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let link = folder.path().join("token");
    let second = folder.path().join("second");
    // Relative to the folder of the link, and through another link.
    std::os::unix::fs::symlink("second", &link).unwrap();
    std::os::unix::fs::symlink("data/real", &second).unwrap();
    let mut file = ResumeFile::open(link.clone(), &orders()).unwrap();
    assert_eq!(names_in(&data), <[&str; 0]>::default());
    for token in [&b"one"[..], b"two"] {
        write(&mut file, token);
        assert_eq!(stored_at(&data.join("real")), token);
        assert_eq!(stored_at(&link), token);
    }
    for path in [&link, &second] {
        assert!(path.symlink_metadata().unwrap().is_symlink());
    }
    assert_eq!(names_in(&data), ["real"]);

    let endless = folder.path().join("endless");
    std::os::unix::fs::symlink("endless", &endless).unwrap();
    let error = ResumeFile::open(endless, &orders()).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
}

/// In a folder like /tmp another user could let root write any file.
#[cfg(unix)]
#[test]
fn a_symbolic_link_that_another_user_made_in_a_shared_folder_is_not_followed() {
    use std::os::unix::fs::{PermissionsExt as _, lchown, symlink};
    let folder = tempfile::tempdir().unwrap();
    let shared = folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    let victim = folder.path().join("victim");
    let link = shared.join("token");
    symlink(&victim, &link).unwrap();
    let own = folder.path().join("own");
    symlink(&link, &own).unwrap();
    // Only root may give links away; those of others are their own.
    let given_away = lchown(&link, Some(4711), None).is_ok();
    for (mode, followed) in [(0o1777, !given_away), (0o1775, true), (0o755, true)] {
        std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(mode)).unwrap();
        for path in [&link, &own] {
            let opened = ResumeFile::open(path.clone(), &orders());
            assert_eq!(opened.is_ok(), followed, "{mode:o}");
            if let Err(error) = opened {
                let text = error.to_string();
                assert!(text.contains("another user made in"), "{text}");
                assert_eq!(text.lines().count(), 1, "{text}");
            }
            assert!(!victim.exists());
        }
    }

    // A link that turns up while the watch runs.
    let mut file = ResumeFile::open(link.clone(), &orders()).unwrap();
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o1777)).unwrap();
    file.set_token(Bytes::from_static(b"one"));
    assert_eq!(file.write().is_err(), given_away);
    assert_eq!(victim.exists(), !given_away);

    for (mode, folder_owner, owner, planted) in [
        (0o1777, 0, 1000, true),
        (0o1777, 0, 0, false),
        (0o1777, 1000, 1000, false),
        (0o1777, 0, 7, false),
        (0o777, 0, 1000, false),
        (0o1755, 0, 1000, false),
    ] {
        let found = storage::may_be_planted(mode, folder_owner, owner, 7);
        assert_eq!(found, planted, "{mode:o} {folder_owner} {owner}");
    }
}

#[cfg(unix)]
#[test]
fn an_existing_file_keeps_its_permissions_its_owner_and_its_names() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    write(
        &mut ResumeFile::open(path.clone(), &orders()).unwrap(),
        b"one",
    );
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600, "a new file is its owner's");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    // Only root may give files away; for others this owner is theirs already.
    let given_away = std::os::unix::fs::chown(&path, Some(4711), Some(4712)).is_ok();
    let owner = path.metadata().unwrap().uid();
    let mut file = ResumeFile::open(path.clone(), &orders()).unwrap();
    write(&mut file, b"two");
    assert!(!file.told_in_place);
    assert_eq!(mode(&path), 0o640);
    assert_eq!(path.metadata().unwrap().uid(), owner);
    assert!(!given_away || owner == 4711);

    let other_name = folder.path().join("other");
    std::fs::hard_link(&path, &other_name).unwrap();
    write(&mut file, b"three");
    assert_eq!(stored_at(&other_name), &b"three"[..]);
    assert!(file.told_in_place);
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn a_file_that_cannot_be_written_is_refused_before_the_watch_opens() {
    let folder = tempfile::TempDir::with_prefix("weir-").unwrap();
    let refused = |path: &Path, calls| {
        let error = ResumeFile::open_with(path.to_owned(), &orders(), calls).unwrap_err();
        let text = error.to_string();
        let name = path.to_str().unwrap();
        assert!(text.starts_with("--resume-file: "), "{text}");
        assert_eq!(text.matches(name).count(), 1, "{text}");
        assert!(!text.contains(".tmp"), "{text}");
        text
    };
    let missing = folder.path().join("missing").join("token");
    let text = refused(&missing, Calls::SYSTEM);
    assert!(text.contains("there is no folder"), "{text}");

    let new = folder.path().join("new");
    for (kind, calls) in failing_renames().into_iter().skip(2) {
        let text = refused(&new, calls);
        assert!(text.contains(&kind.to_string()), "{text}");
        assert!(!new.exists());
    }
    let full = calls(Some(|_| Err(ErrorKind::StorageFull.into())), None);
    let text = refused(&new, full);
    assert!(text.contains("no storage space"), "{text}");
    // Space for a name, and not for content.
    let full = calls(
        Some(|folder| {
            let path = tempfile::NamedTempFile::new_in(folder)?.into_temp_path();
            let full = std::fs::File::options().write(true).open("/dev/full")?;
            Ok(tempfile::NamedTempFile::from_parts(full, path))
        }),
        None,
    );
    let text = refused(&new, full);
    assert!(text.contains("No space left"), "{text}");
    let old = folder.path().join("old");
    write(
        &mut ResumeFile::open(old.clone(), &orders()).unwrap(),
        b"one",
    );
    let text = refused(&old, full);
    assert!(text.contains("No space left"), "{text}");
    assert_eq!(stored_at(&old), &b"one"[..], "it stays as it was");
    assert_eq!(names_in(folder.path()), ["old"]);
}

#[cfg(unix)]
#[test]
fn what_is_not_a_regular_file_is_refused_without_reading_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    for (path, why) in [
        (folder.path(), "is a folder: name a regular file"),
        (
            folder.path().join("new/").as_path(),
            "is a folder: name a regular file",
        ),
        (socket.as_path(), "is a device, a pipe or a socket"),
        (Path::new("/dev/null"), "is a device"),
        // It never ends.
        (Path::new("/dev/full"), "is a device"),
    ] {
        let error = ResumeFile::open(path.to_owned(), &orders()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_huge_file_is_refused_without_reading_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap();
    let error = ResumeFile::open(file.path().to_owned(), &orders()).unwrap_err();
    assert!(error.to_string().contains("too large"), "{error}");
}
