use super::{missing::Incomplete, *};

#[tokio::test]
async fn what_is_only_looked_at_is_neither_made_nor_changed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bartizan.toml");
    fs::write(&config, "[[servers]]\nname = \"one\"\ncommand = [\"one\"]\n").unwrap();
    let place = folder.path().join(".bartizan");
    let is_missing = |error: anyhow::Error| error.is::<NoState>();
    let state = State::look(Some(&config)).unwrap();
    assert!(state.present().is_err());
    assert!(is_missing(state.database().await.unwrap_err()));
    assert!(state.keys().await.is_err_and(is_missing));
    assert!(!place.exists());
    // A folder with nothing but a token: a script may have asked for that first.
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o750)).unwrap();
    let state = State::look(Some(&config)).unwrap();
    assert!(state.present().is_ok());
    assert!(state.whole().is_err_and(is_missing));
    assert!(state.database().await.is_err_and(is_missing));
    assert!(state.keys().await.is_err_and(is_missing));
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o750);
    // What a gate has made is opened.
    let made = State::for_config(Some(&config)).unwrap();
    made.database().await.unwrap().close().await;
    made.keys().await.unwrap();
    let state = State::look(Some(&config)).unwrap();
    state.database().await.unwrap().close().await;
    assert_eq!(state.sealer().await.unwrap().mark(&[b"x"]), made.sealer().await.unwrap().mark(&[b"x"]));
}

fn configured(folder: &Path) -> PathBuf {
    let config = folder.join("bartizan.toml");
    fs::write(&config, "[[servers]]\nname = \"one\"\ncommand = [\"one\"]\n").unwrap();
    config
}

#[tokio::test]
async fn a_folder_without_a_gate_is_said_to_be_none_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path());
    let Err(error) = State::of_gate(Some(&config)) else { panic!("there is no gate") };
    assert!(error.to_string().contains("no gate has run here"), "{error}");
    assert!(!folder.path().join(".bartizan").exists());
    let made = State::for_config(Some(&config)).unwrap();
    made.token().unwrap();
    assert!(State::of_gate(Some(&config)).is_err_and(|error| error.is::<NoState>()), "a token is no gate");
    made.database().await.unwrap().close().await;
    assert!(State::of_gate(Some(&config)).is_ok());
}

#[tokio::test]
async fn keys_and_store_are_made_together_and_neither_in_the_place_of_a_lost_one() {
    for first in ["keys", "database"] {
        let folder = tempfile::tempdir().unwrap();
        let config = configured(folder.path());
        let state = State::for_config(Some(&config)).unwrap();
        match first {
            "keys" => {
                state.keys().await.unwrap();
            }
            _ => state.database().await.unwrap().close().await,
        }
        State::of_gate(Some(&config)).unwrap().keys().await.unwrap();
        let place = state.folder().to_owned();
        let is_lost = |error: anyhow::Error| {
            let words = format!("{error:#}");
            error.is::<Incomplete>() && words.contains("keys.json is missing") && words.contains("backup")
        };
        fs::remove_file(place.join("keys.json")).unwrap();
        assert!(place.join("seal.key").exists(), "which wrapped the lost file, and opens nothing alone");
        assert!(State::of_gate(Some(&config)).is_err_and(is_lost));
        assert!(State::look(Some(&config)).unwrap().keys().await.is_err_and(is_lost));
        assert!(State::for_config(Some(&config)).unwrap().keys().await.is_err_and(is_lost));
        assert!(!place.join("keys.json").exists(), "none are made");
    }
}

#[tokio::test]
async fn a_store_that_is_gone_is_named_and_not_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path());
    let state = State::for_config(Some(&config)).unwrap();
    state.database().await.unwrap().close().await;
    let place = state.folder().to_owned();
    fs::write(place.join(SEEN), "").unwrap();
    for end in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(place.join(format!("store.db{end}")));
    }
    let is_lost = |error: anyhow::Error| {
        error.is::<Incomplete>() && format!("{error:#}").contains("store.db is missing")
    };
    assert!(State::of_gate(Some(&config)).is_err_and(is_lost));
    assert!(State::look(Some(&config)).unwrap().database().await.is_err_and(is_lost));
    assert!(State::for_config(Some(&config)).unwrap().database().await.is_err_and(is_lost));
    State::for_config(Some(&config)).unwrap().keys().await.unwrap();
    assert!(!place.join(STORE).exists());
}

/// A version without a key file sealed and marked with `seal.key` itself.
#[tokio::test]
async fn the_keys_of_an_earlier_version_are_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let config = configured(folder.path());
    let state = State::for_config(Some(&config)).unwrap();
    let key = state.folder().join("seal.key");
    let earlier = Sealer::from_file(&key, &OsEntropy).unwrap();
    state.open_store().await.unwrap().close().await;
    let mark = earlier.mark(&[SEEN.as_bytes(), &7_u64.to_be_bytes()]);
    fs::write(state.folder().join(SEEN), format!("7 {mark}\n")).unwrap();
    let looked = State::look(Some(&config)).unwrap();
    assert!(looked.whole().is_ok() && looked.keys().await.is_err_and(|error| error.is::<NoState>()));
    let state = State::of_gate(Some(&config)).unwrap();
    state.keys().await.unwrap();
    assert!(keys::path(state.folder()).exists());
}

#[test]
fn is_made_once_and_private() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bartizan.toml");
    let first = State::for_config(Some(&config)).unwrap().token().unwrap();
    let state = State::for_config(Some(&config)).unwrap();
    assert!(state.token().unwrap().matches(first.reveal().as_bytes()));
    let mode = |name: &str| fs::metadata(folder.path().join(".bartizan").join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode(""), mode("token")), (0o700, 0o600));
    assert_eq!(fs::read_to_string(folder.path().join(".bartizan/.gitignore")).unwrap(), "*\n");
    fs::set_permissions(folder.path().join(".bartizan/token"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(state.token().is_err(), "a token others could read is not used");
}
