use std::pin::Pin;

use bartizan_audit::{
    AuditFolder, Lost, Options,
    export::{Answer, Shipment, Transport, Unreachable},
    witness::Cosigner,
};
use bartizan_model::{ManualClock, SeededEntropy};

use super::*;

/// A witness whom nobody reaches.
struct Away;

impl Transport for Away {
    fn carry<'a>(
        &'a self,
        _: Shipment,
    ) -> Pin<Box<dyn Future<Output = Result<Answer, Unreachable>> + Send + 'a>> {
        Box::pin(async { Err(Unreachable("nobody is there".to_owned())) })
    }
}

fn asking(root: &Path, clock: Arc<ManualClock>) -> (Asking, Log) {
    let folder = AuditFolder::open(root, Arc::new(SeededEntropy::new(1))).unwrap();
    let log = folder.start("gate", clock.clone(), Options::default()).unwrap();
    let name = Cosigner::from_seed(&[1; 32], "witness.example/1".parse().unwrap()).key();
    let key: PublicKey = fs::read_to_string(root.join("audit.pub")).unwrap().parse().unwrap();
    let config = WitnessConfig {
        url: "https://witness.example".parse().unwrap(),
        key: name.to_string(),
        every_s: 1,
        required: true,
        max_age_s: 300,
        tls: Default::default(),
    };
    let witnessed = Witnessed::new("https://witness.example", name, key, Arc::new(Away));
    let asking = Asking {
        setting: Setting { config, witnessed, fingerprint: String::new() },
        log: log.clone(),
        folder: root.to_owned(),
        began: clock.now(),
        clock,
        progress: Arc::default(),
        troubles: BTreeMap::new(),
        signed: None,
        refusal: None,
    };
    (asking, log)
}

async fn is_barred(log: &Log) -> bool {
    matches!(log.open(Event::new(Kind::CallOpened)).await, Err(Lost::Barred(_)))
}

/// A required witness is one whatever keeps it from being asked: an audit folder that cannot be read for want of descriptors, a
/// clock that is set back.
#[tokio::test]
async fn what_was_signed_last_grows_old_whatever_keeps_the_witness_from_being_asked() {
    let root = tempfile::tempdir().unwrap();
    let start = Timestamp::from_unix(1_800_000_000);
    let clock = Arc::new(ManualClock::new(start));
    let (mut asking, log) = asking(root.path(), clock.clone());
    asking.ask_all().await;
    assert!(is_barred(&log).await, "nobody signed it yet");

    asking.signed = Some((Instant::now(), clock.now()));
    asking.ask_all().await;
    assert!(!is_barred(&log).await, "a witness may be away for a while");
    asking.folder = root.path().join("gone");
    asking.ask_all().await;
    assert!(!is_barred(&log).await, "and so may the folder");
    clock.advance(Duration::from_secs(301));
    asking.ask_all().await;
    assert!(is_barred(&log).await, "but not for longer");

    // Signed at a time that is still to come, as the clock has it now.
    let later = start.plus(Duration::from_secs(86_400));
    asking.signed = Some((Instant::now(), later));
    asking.ask_all().await;
    assert!(!is_barred(&log).await);
    asking.signed = Some((Instant::now().checked_sub(Duration::from_secs(301)).unwrap(), later));
    asking.ask_all().await;
    assert!(is_barred(&log).await, "time passes all the same");
}
