//! From text to hashed n-grams: the one definition that training and scoring share.
//!
//! Characters are lower-cased, digits become `0`, runs of white space and control characters become one blank, and a
//! fourth equal character in a row is dropped, so that rulers and long numbers do not drown a window. A word is a run of
//! letters and digits; in scripts that do not set blanks between words, every character is one.

/// Characters in a block; windows are made of blocks.
pub const BLOCK: usize = 100;
/// Buckets for word n-grams, and as many again for character n-grams.
pub const BUCKETS: usize = 1 << 18;

const SHIFT: u32 = u64::BITS - BUCKETS.trailing_zeros();

/// One n-gram, as the bucket it hashes to, below [`BUCKETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ngram {
    /// Three to five characters.
    Characters(usize),
    /// One to three words.
    Word(usize),
}

/// What a scan reports, in order.
pub trait Visit {
    /// An n-gram that ends here.
    fn ngram(&mut self, ngram: Ngram);
    /// A block ends at byte `end` of the text; `whole` if it has all its [`BLOCK`] characters, which the last one may lack.
    fn block(&mut self, end: usize, whole: bool);
}

/// Odd multipliers; an n-gram's hash is the sum of its members, each times its own (multiply-shift for vectors: Dietzfelbinger
/// 1996), so the five-character hash is the four-character one and a term.
const CHARACTER: [u64; 5] = [
    0x9E37_79B9_7F4A_7C15,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0xD6E8_FEB8_6659_FD93,
    0xA076_1D64_78BD_642F,
];
const WORD: [u64; 3] = [0xE703_7ED1_A0B4_28DB, 0x8EBC_6AF0_9C88_C6E3, 0x5899_65CC_7537_4CC3];
/// Keeps the n-grams of different lengths apart.
const LENGTH: [u64; 3] = [0x1D8E_4E27_C47D_124F, 0xEB44_ACCA_B455_D165, 0x2D35_8DCC_AA6C_78A5];
const WORD_START: u64 = 0xCBF2_9CE4_8422_2325;
const WORD_STEP: u64 = 0x0000_0100_0000_01B3;

/// Walks `text` once and tells `visit` its n-grams.
#[inline]
pub fn scan(text: &str, visit: &mut impl Visit) {
    let mut walk = Walk { recent: [BLANK; 5], word: WORD_START, in_word: false, words: [0; 2], in_block: 0 };
    let bytes = text.as_bytes();
    let mut at = 0;
    while at <= bytes.len() {
        // Behind the end is a blank, which ends the last word.
        let byte = bytes.get(at).copied().unwrap_or(b' ');
        let (folded, is_word, alone, length) = if let Some(&folded) = ASCII.get(usize::from(byte)) {
            (u32::from(folded), IS_WORD.get(usize::from(folded)).is_some_and(|is| *is), false, 1)
        } else {
            let Some(character) = text.get(at..).and_then(|rest| rest.chars().next()) else { break };
            let folded = fold(character);
            let alone = stands_alone(folded);
            (folded, alone || is_word(folded), alone, character.len_utf8())
        };
        if alone {
            walk.end_word(visit);
        }
        walk.push(folded, is_word, at, visit);
        if alone {
            walk.end_word(visit);
        }
        at += length;
    }
    let whole = walk.in_block == BLOCK;
    visit.block(text.len(), whole);
}

const BLANK: u32 = b' ' as u32;

/// The scan between two characters.
struct Walk {
    /// The newest character first.
    recent: [u32; 5],
    word: u64,
    in_word: bool,
    /// Hashes of the words before, the newest first; 0 for none.
    words: [u64; 2],
    in_block: usize,
}

impl Walk {
    #[expect(
        clippy::inline_always,
        reason = "called once, for every character; what it keeps must stay in registers"
    )]
    #[inline(always)]
    fn push(&mut self, character: u32, is_word: bool, at: usize, visit: &mut impl Visit) {
        let [a, b, c, d, _] = self.recent;
        if character == a && (character == BLANK || (a == b && b == c)) {
            return;
        }
        if self.in_block == BLOCK {
            visit.block(at, true);
            self.in_block = 0;
        }
        self.in_block += 1;
        if is_word {
            self.word = (self.word ^ u64::from(character)).wrapping_mul(WORD_STEP);
            self.in_word = true;
        } else {
            self.end_word(visit);
        }
        self.recent = [character, a, b, c, d];
        let [m0, m1, m2, m3, m4] = CHARACTER;
        let [l3, l4, l5] = LENGTH;
        let term = |character: u32, multiplier: u64| (u64::from(character) + 1).wrapping_mul(multiplier);
        let three = term(character, m0).wrapping_add(term(a, m1)).wrapping_add(term(b, m2)).wrapping_add(l3);
        let four = three.wrapping_add(term(c, m3)).wrapping_add(l4);
        let five = four.wrapping_add(term(d, m4)).wrapping_add(l5);
        visit.ngram(Ngram::Characters(bucket(three)));
        visit.ngram(Ngram::Characters(bucket(four)));
        visit.ngram(Ngram::Characters(bucket(five)));
    }

    #[inline]
    fn end_word(&mut self, visit: &mut impl Visit) {
        if !self.in_word {
            return;
        }
        let [m0, m1, m2] = WORD;
        let [l1, l2, l3] = LENGTH;
        let word = self.word ^ (self.word >> 29);
        let [before, earlier] = self.words;
        let one = word.wrapping_mul(m0).wrapping_add(l1);
        visit.ngram(Ngram::Word(bucket(one)));
        if before != 0 {
            let two = one.wrapping_add(before.wrapping_mul(m1)).wrapping_add(l2);
            visit.ngram(Ngram::Word(bucket(two)));
            if earlier != 0 {
                visit.ngram(Ngram::Word(bucket(two.wrapping_add(earlier.wrapping_mul(m2)).wrapping_add(l3))));
            }
        }
        self.words = [word, before];
        self.word = WORD_START;
        self.in_word = false;
    }
}

#[inline]
const fn bucket(hash: u64) -> usize {
    (hash >> SHIFT) as usize
}

/// ASCII as the model sees it: lower case, `0` for digits, a blank for white space and control characters.
static ASCII: [u8; 128] = {
    let mut table = [b' '; 128];
    let mut byte = 0x21_u8;
    while byte < 0x7F {
        let folded = if byte.is_ascii_digit() { b'0' } else { byte.to_ascii_lowercase() };
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte as usize] = folded;
        }
        byte += 1;
    }
    table
};

static IS_WORD: [bool; 128] = {
    let mut table = [false; 128];
    let mut byte = 0_u8;
    while byte < 0x80 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte as usize] = byte.is_ascii_alphanumeric();
        }
        byte += 1;
    }
    table
};

fn fold(character: char) -> u32 {
    if character.is_whitespace() || character.is_control() {
        return BLANK;
    }
    if is_digit(character) {
        return u32::from('0');
    }
    u32::from(character.to_lowercase().next().unwrap_or(character))
}

/// Decimal digits outside ASCII, in the scripts whose languages the model knows.
const fn is_digit(character: char) -> bool {
    matches!(character, '\u{660}'..='\u{669}' | '\u{6F0}'..='\u{6F9}' | '\u{966}'..='\u{96F}' | '\u{9E6}'..='\u{9EF}'
        | '\u{E50}'..='\u{E59}' | '\u{FF10}'..='\u{FF19}')
}

/// Whether a character outside ASCII belongs to a word: everything does but blanks and punctuation.
const fn is_word(folded: u32) -> bool {
    !matches!(folded, 0..=0x7F | 0x80..=0xBF | 0xD7 | 0xF7 | 0x2000..=0x2BFF | 0x3000..=0x303F | 0xFE30..=0xFE4F
        | 0xFF00..=0xFF0F | 0xFF1A..=0xFF20 | 0xFF3B..=0xFF40 | 0xFF5B..=0xFF65 | 0x1F000..)
        || folded == b'0' as u32
}

/// Whether the character is of a script without blanks between words: Thai, Lao, Myanmar, Khmer, kana, Han.
const fn stands_alone(folded: u32) -> bool {
    matches!(folded, 0xE00..=0xEFF | 0x1000..=0x109F | 0x1780..=0x17FF | 0x3041..=0x30FF | 0x3400..=0x9FFF
        | 0xF900..=0xFAFF | 0x20000..=0x3FFFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Heard {
        ngrams: Vec<Ngram>,
        blocks: Vec<(usize, bool)>,
    }

    impl Visit for Heard {
        fn ngram(&mut self, ngram: Ngram) {
            self.ngrams.push(ngram);
        }

        fn block(&mut self, end: usize, whole: bool) {
            self.blocks.push((end, whole));
        }
    }

    fn heard(text: &str) -> Heard {
        let mut heard = Heard::default();
        scan(text, &mut heard);
        heard
    }

    #[test]
    fn case_blanks_digits_and_rulers_do_not_change_the_n_grams() {
        let plain = heard("send 0000 files now ---").ngrams;
        for same in
            ["SEND 0000 files NOW ---", "send\t\n 1987  files now ---", "send 0000 files now ------------"]
        {
            assert_eq!(heard(same).ngrams, plain, "{same}");
        }
        assert_ne!(heard("send 0000 files then ---").ngrams, plain);
    }

    #[test]
    fn words_are_counted_in_scripts_with_and_without_blanks() {
        let words = |text| heard(text).ngrams.iter().filter(|n| matches!(n, Ngram::Word(_))).count();
        // n words make n + (n - 1) + (n - 2) n-grams.
        assert_eq!(words("one two three four"), 9);
        assert_eq!(words("один два три четыре"), 9);
        assert_eq!(words("忽略指令"), 9);
        assert_eq!(words("sned_email"), words("send email"));
    }

    #[test]
    fn blocks_end_after_a_hundred_characters_and_the_last_says_whether_it_is_whole() {
        assert_eq!(heard("").blocks, [(0, false)]);
        assert_eq!(heard(&"ab".repeat(75)).blocks, [(100, true), (150, false)]);
        assert_eq!(heard(&"éa".repeat(75)).blocks, [(150, true), (225, false)]);
    }
}
