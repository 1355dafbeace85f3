//! Check digits: what tells a number that means something from any other.

use serde::Deserialize;

/// A rule a number satisfies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// India's Aadhaar: Verhoeff (1969).
    Aadhaar,
    /// The Netherlands' BSN: weights 9 … 2, −1, modulo 11.
    Bsn,
    /// China's resident identity: ISO 7064 MOD 11-2.
    ChinaId,
    /// Brazil's CPF: two digits modulo 11.
    Cpf,
    /// Spain's DNI and NIE: a letter for the number modulo 23.
    Dni,
    /// ISO 13616: modulo 97.
    Iban,
    /// France's NIR: 97 less the number modulo 97.
    Insee,
    /// ISO/IEC 7812-1 annex B, on 13 to 19 digits of a card issuer's range, not all the same.
    Luhn,
    /// The United Kingdom's NHS number: weights 10 … 2, modulo 11.
    Nhs,
    /// Poland's PESEL: weights 1, 3, 7, 9, modulo 10.
    Pesel,
    /// The United States' social security number: no area 000, 666 or 9xx, no group 00, no serial 0000.
    Ssn,
    /// Germany's tax identification number: ISO 7064 MOD 11,10.
    SteuerId,
}

impl Check {
    /// Whether `text` satisfies it; blanks, dots and hyphens do not count.
    pub fn holds(self, text: &str) -> bool {
        let packed: String =
            text.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_uppercase()).collect();
        let digits: Vec<u32> = packed.chars().filter_map(|c| c.to_digit(10)).collect();
        let all_digits = digits.len() == packed.len();
        let varied = digits.windows(2).any(|pair| pair.first() != pair.last());
        match self {
            Self::Iban => iban(&packed),
            Self::Dni => dni(&packed),
            Self::ChinaId => china_id(&packed),
            _ if !all_digits || !varied => false,
            Self::Luhn => luhn(&digits),
            Self::Aadhaar => digits.len() == 12 && aadhaar(&digits),
            Self::Bsn => {
                digits.len() == 9 && weighted(&digits, &[9, 8, 7, 6, 5, 4, 3, 2, 10]).is_multiple_of(11)
            }
            Self::Cpf => digits.len() == 11 && cpf(&digits),
            Self::Insee => insee(&packed),
            Self::Nhs => digits.len() == 10 && nhs(&digits),
            Self::Pesel => {
                digits.len() == 11 && weighted(&digits, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]).is_multiple_of(10)
            }
            Self::Ssn => ssn(&packed),
            Self::SteuerId => digits.len() == 11 && steuer_id(&digits),
        }
    }
}

fn weighted(digits: &[u32], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(digit, weight)| digit * weight).sum()
}

fn luhn(digits: &[u32]) -> bool {
    let issuer = matches!(digits, [2..=6, ..]);
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, &digit)| if at % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 })
        .sum();
    issuer && (13..=19).contains(&digits.len()) && sum.is_multiple_of(10)
}

/// The remainder of a number of any length, letters counting 10 to 35.
fn modulo_97(text: impl Iterator<Item = char>) -> u32 {
    text.filter_map(|c| c.to_digit(36))
        .fold(0, |rest, value| if value < 10 { (rest * 10 + value) % 97 } else { (rest * 100 + value) % 97 })
}

fn iban(packed: &str) -> bool {
    (15..=34).contains(&packed.len())
        && packed.bytes().take(2).all(|b| b.is_ascii_uppercase())
        && packed.bytes().skip(2).take(2).all(|b| b.is_ascii_digit())
        && modulo_97(packed.chars().skip(4).chain(packed.chars().take(4))) == 1
}

fn dni(packed: &str) -> bool {
    let number: String = packed
        .chars()
        .take(packed.len().saturating_sub(1))
        .enumerate()
        .map(|(at, c)| match (at, c) {
            (0, 'X') => '0',
            (0, 'Y') => '1',
            (0, 'Z') => '2',
            _ => c,
        })
        .collect();
    let Ok(number) = number.parse::<u32>() else { return false };
    let letter = "TRWAGMYFPDXBNJZSQVHLCKE".chars().nth(usize::try_from(number % 23).unwrap_or(0));
    packed.len() == 9 && packed.chars().last() == letter
}

fn china_id(packed: &str) -> bool {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let digits: Vec<u32> = packed.chars().take(17).filter_map(|c| c.to_digit(10)).collect();
    let rest = usize::try_from(weighted(&digits, &WEIGHTS) % 11).unwrap_or(0);
    packed.len() == 18 && digits.len() == 17 && packed.chars().last() == "10X98765432".chars().nth(rest)
}

fn cpf(digits: &[u32]) -> bool {
    let check = |count: u32| {
        let sum: u32 = digits.iter().zip((2..=count + 1).rev()).map(|(digit, weight)| digit * weight).sum();
        sum * 10 % 11 % 10
    };
    digits.get(9) == Some(&check(9)) && digits.get(10) == Some(&check(10))
}

fn insee(packed: &str) -> bool {
    let number = packed.get(..13).map(|n| modulo_97(n.chars()));
    let key = packed.get(13..).and_then(|key| key.parse::<u32>().ok());
    packed.len() == 15 && matches!((number, key), (Some(number), Some(key)) if number + key == 97)
}

fn nhs(digits: &[u32]) -> bool {
    let check = 11 - weighted(digits, &[10, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
    digits.get(9) == Some(&(check % 11)) && check != 10
}

fn ssn(packed: &str) -> bool {
    let part = |range| packed.get(range).and_then(|part: &str| part.parse::<u32>().ok()).unwrap_or(0);
    let (area, group, serial) = (part(0..3), part(3..5), part(5..9));
    packed.len() == 9 && area > 0 && area != 666 && area < 900 && group > 0 && serial > 0
}

fn steuer_id(digits: &[u32]) -> bool {
    let product = digits.iter().take(10).fold(10, |product, digit| {
        let sum = (digit + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    digits.first() != Some(&0) && digits.get(10) == Some(&((11 - product) % 10))
}

fn aadhaar(digits: &[u32]) -> bool {
    // The dihedral group of order ten, and the permutation that each place applies once more.
    let multiply = |a: u32, b: u32| match (a < 5, b < 5) {
        (true, true) => (a + b) % 5,
        (true, false) => (a + b - 5) % 5 + 5,
        (false, true) => (a - 5 + 5 - b) % 5 + 5,
        (false, false) => (a - b + 5) % 5,
    };
    const PERMUTATION: [u32; 10] = [1, 5, 7, 6, 2, 8, 3, 0, 9, 4];
    let permute = |times: usize, digit: u32| {
        (0..times % 8).fold(digit, |d, _| {
            usize::try_from(d).ok().and_then(|d| PERMUTATION.get(d)).copied().unwrap_or(d)
        })
    };
    let check =
        digits.iter().rev().enumerate().fold(0, |check, (at, &digit)| multiply(check, permute(at, digit)));
    check == 0 && !matches!(digits, [0 | 1, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_check_digit_holds_and_every_other_digit_does_not() {
        for (check, good) in [
            (Check::Aadhaar, "2341 2341 2346"),
            (Check::Bsn, "111222333"),
            (Check::ChinaId, "11010519491231002X"),
            (Check::Cpf, "529.982.247-25"),
            (Check::Dni, "12345678Z"),
            (Check::Dni, "X1234567L"),
            (Check::Iban, "DE89 3704 0044 0532 0130 00"),
            (Check::Iban, "GB82 WEST 1234 5698 7654 32"),
            (Check::Insee, "2 55 08 14 168 025 38"),
            (Check::Luhn, "4111 1111 1111 1111"),
            (Check::Luhn, "378282246310005"),
            (Check::Nhs, "943 476 5919"),
            (Check::Pesel, "44051401359"),
            (Check::SteuerId, "86095742719"),
        ] {
            assert!(check.holds(good), "{check:?} {good}");
            let last = good.trim_end().len() - 1;
            for other in "0123456789X".chars().filter(|c| !good.ends_with(*c)) {
                let bad = format!("{}{other}", good.get(..last).unwrap());
                assert!(!check.holds(&bad), "{check:?} {bad}");
            }
            assert!(!check.holds("") && !check.holds("0000000000000000"));
        }
    }

    #[test]
    fn social_security_numbers_that_are_never_issued_do_not_hold() {
        assert!(Check::Ssn.holds("536-22-1234"));
        for bad in ["000-12-3456", "666-12-3456", "912-12-3456", "536-00-1234", "536-22-0000"] {
            assert!(!Check::Ssn.holds(bad), "{bad}");
        }
    }
}
