//! Readers of documents, honest and other. Each is this very binary, started again.
//!
//! `BARTIZAN_MEASURE=1` also prints what reading in a process of its own costs (`just documents`).

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test without a harness")]

use std::{
    io::{Read, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use bartizan_gateway::documents::Readers;
use bartizan_sandbox::{
    HELPER_ARGUMENT,
    cell::{self, CellLimits},
    helper_main,
};
use bartizan_shield::document::{Limits, Unread, Words, read, wire};

const HONEST: &str = "__honest";
/// Dies of each second document.
const FRAIL: &str = "__frail";
/// Answers what is no answer.
const LIAR: &str = "__liar";
/// Promises more than is allowed.
const BOASTER: &str = "__boaster";
/// Does not say what confines it.
const LOOSE: &str = "__loose";
/// Ends before it says anything.
const GONE: &str = "__gone";

const MAIL: &str = "message/rfc822";
/// What the frail one reads.
const SHORT: &[u8] = b"a\n\nb c d e";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next().unwrap_or_default();
    match first.to_str().unwrap_or_default() {
        HELPER_ARGUMENT => return helper_main(arguments),
        name @ (HONEST | FRAIL | LIAR | BOASTER | LOOSE | GONE) => return reader(name),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        they_read_as_we_would().await;
        println!("ok: they read as we would");
        one_that_dies_is_replaced().await;
        println!("ok: one that dies is replaced");
        what_is_no_answer_is_not_believed().await;
        println!("ok: what is no answer is not believed");
        if std::env::var_os("BARTIZAN_MEASURE").is_some() {
            measure().await;
        }
    });
    ExitCode::SUCCESS
}

fn reader(name: &str) -> ExitCode {
    let mut output = std::io::stdout();
    if name == GONE {
        return ExitCode::SUCCESS;
    }
    let limits = CellLimits { memory: 768 << 20, processor: Duration::from_secs(60) };
    let byte = if name == LOOSE { 0xff } else { cell::enter(limits).unwrap().to_byte() };
    output.write_all(&[byte]).unwrap();
    output.flush().unwrap();
    let mut input = std::io::stdin();
    match name {
        LIAR | BOASTER => {
            input.read_exact(&mut [0; 9]).unwrap();
            let lie: &[u8] = if name == LIAR { b"BZA1\0\0\0\x03\xff\0\0" } else { b"BZA1\xff\xff\xff\xff" };
            output.write_all(lie).unwrap();
            output.flush().unwrap();
            // Until whoever asked has had enough.
            let _ = input.read_to_end(&mut Vec::new());
        }
        FRAIL => {
            let mut one = vec![0; 9 + MAIL.len() + SHORT.len()];
            input.read_exact(&mut one).unwrap();
            wire::serve(one.as_slice(), &mut output, Limits::default()).unwrap();
            let _ = input.read(&mut [0]);
        }
        _ => wire::serve(input, output, Limits::default()).unwrap(),
    }
    ExitCode::SUCCESS
}

fn readers(name: &str) -> Readers {
    Readers::new(std::env::current_exe().unwrap(), name)
}

async fn ask(readers: &Readers, document: &[u8], media_type: &str) -> Words {
    let (server, deadline) = ("s".parse().unwrap(), tokio::time::Instant::now() + Duration::from_secs(30));
    readers.read(&server, document.to_vec(), media_type.to_owned(), Limits::default(), deadline).await
}

async fn they_read_as_we_would() {
    let readers = readers(HONEST);
    let long = format!("Subject: rain\n\n{}", "Rain at noon. ".repeat(50_000));
    for (document, media_type) in [
        (b"Subject: rain\n\nat noon".as_slice(), MAIL),
        (long.as_bytes(), MAIL),
        (b"PK\x03\x04 cut off", "application/zip"),
        (b"%PDF-1.7 \xff", "application/pdf"),
        (b"", ""),
    ] {
        let here = read(document, media_type, Limits::default());
        assert_eq!(ask(&readers, document, media_type).await, here);
    }
    let too_long = vec![b'x'; wire::DOCUMENT + 1];
    assert_eq!(ask(&readers, &too_long, MAIL).await, Words::unread(Unread::TooMuch));
    assert_eq!(readers.failed(), 0);
}

async fn one_that_dies_is_replaced() {
    let readers = readers(FRAIL);
    for _ in 0..5 {
        let words = ask(&readers, SHORT, MAIL).await;
        assert_eq!((words.unread, words.parts.len()), (None, 1), "{words:?}");
    }
    assert_eq!(readers.failed(), 0, "after a used one a fresh one is asked");
}

async fn what_is_no_answer_is_not_believed() {
    for name in [LIAR, BOASTER, LOOSE, GONE] {
        let readers = readers(name);
        assert_eq!(ask(&readers, SHORT, MAIL).await, Words::unread(Unread::Failed), "{name}");
        assert_eq!(readers.failed(), 1, "{name}");
    }
    let nobody = Readers::default();
    assert_eq!(ask(&nobody, SHORT, MAIL).await, Words::unread(Unread::Failed));
    assert!(nobody.probe().await.is_err());
}

/// Prints the median time of a typical document, here and there.
async fn measure() {
    let page = "BT /F1 12 Tf 72 720 Td (Rain at noon, and more of it in the evening.) Tj ET\n".repeat(400);
    let pdf = format!(
        "%PDF-1.7\n1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj\n\
         2 0 obj << /Type /Pages /Kids [3 0 R] /Count 1 >> endobj\n\
         3 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R \
         /Resources << /Font << /F1 5 0 R >> >> >> endobj\n\
         4 0 obj << /Length {} >> stream\n{page}endstream endobj\n\
         5 0 obj << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> endobj\ntrailer << /Root 1 0 R >>\n",
        page.len()
    );
    let mail = format!("Subject: rain\n\n{}", "Rain at noon. ".repeat(1_500));
    let readers = readers(HONEST);
    for (name, document, media_type) in
        [("mail of 20 kB", mail, MAIL), ("PDF of 30 kB", pdf, "application/pdf")]
    {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for _ in 0..300 {
            let began = Instant::now();
            std::hint::black_box(read(document.as_bytes(), media_type, Limits::default()));
            here.push(began.elapsed());
            let began = Instant::now();
            std::hint::black_box(ask(&readers, document.as_bytes(), media_type).await);
            there.push(began.elapsed());
        }
        here.sort();
        there.sort();
        let median = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default();
        let (here, there) = (median(&here), median(&there));
        let ratio = there.as_secs_f64() / here.as_secs_f64();
        println!("{name}: here {here:?}, there {there:?}, {ratio:.2} times");
    }
    let began = Instant::now();
    for _ in 0..20 {
        readers.probe().await.unwrap();
    }
    println!("a start: {:?}", began.elapsed() / 20);
}
