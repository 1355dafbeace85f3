//! Tables of the right age.

use bartizan_store::{Database, DatabaseError, Dialect};

use crate::bench::{Bench, each};

/// The numbers of the scripts, as their files say.
fn numbers() -> Vec<i64> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/sqlite");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
    files.map(|name| name.to_str().and_then(|name| name.get(..4)).unwrap().parse().unwrap()).collect()
}

async fn reopen(bench: &Bench, dialect: Dialect) -> Result<Database, DatabaseError> {
    match dialect {
        Dialect::Sqlite => Database::sqlite(bench.file()).await,
        Dialect::Postgres => Database::postgres(bench.url()).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_start_at_once_find_the_same_tables() {
    each(async |bench| {
        let (a, b, c, d) = tokio::join!(bench.open(), bench.open(), bench.open(), bench.open());
        for database in [a, b, c, d] {
            database.close().await;
        }
        assert_eq!(
            bench.meddle("UPDATE bartizan_migrations SET number = number").await,
            numbers().len() as u64
        );
    })
    .await;
}

#[tokio::test]
async fn tables_of_a_newer_or_another_program_are_left_alone() {
    each(async |bench| {
        let dialect = bench.open().await.dialect();
        bench.meddle("INSERT INTO bartizan_migrations (number, script) VALUES (99, 'x')").await;
        let newer = reopen(bench, dialect).await;
        let newest = numbers().into_iter().max().unwrap();
        assert!(matches!(newer, Err(DatabaseError::Newer { found: 99, known }) if known == newest));
        bench.meddle("DELETE FROM bartizan_migrations WHERE number = 99").await;
        bench.meddle("UPDATE bartizan_migrations SET script = 'x' WHERE number = 2").await;
        assert!(matches!(reopen(bench, dialect).await, Err(DatabaseError::Migration(2))));
    })
    .await;
}
