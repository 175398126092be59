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

#[test]
fn the_error_for_a_folder_that_cannot_be_written_names_the_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing").join("token");
    let mut file = ResumeFile::open(path.clone(), &orders()).unwrap();
    file.set_token(Bytes::from_static(b"one"));
    let error = file.write().unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}
