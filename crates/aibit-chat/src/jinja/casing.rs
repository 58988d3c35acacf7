//! Upper, lower and title case, and what a letter is, by Unicode's rules as Python applies them.

use aibit_tokenizer::CharacterClass::{Letter, Number};
use aibit_tokenizer::character_class;

use super::budget::{Outcome, refuse};
use super::text::Char;

pub(super) fn upper(text: &[Char]) -> Vec<Char> {
    text.iter().flat_map(|c| c.get().to_uppercase().map(|u| c.with(u))).collect()
}

pub(super) fn lower(text: &[Char]) -> Vec<Char> {
    (0..text.len()).flat_map(|at| lower_at(text, at)).collect()
}

/// The lower case of one character in its place: a sigma at the end of a word has its own.
fn lower_at(text: &[Char], at: usize) -> impl Iterator<Item = Char> {
    let c = text[at];
    let is_final = c.get() == 'Σ' && is_final_sigma(text, at);
    let lower = if is_final { 'ς'.to_lowercase() } else { c.get().to_lowercase() };
    lower.map(move |l| c.with(l))
}

fn is_final_sigma(text: &[Char], at: usize) -> bool {
    let is_cased = |c: &&Char| c.get().is_uppercase() || c.get().is_lowercase() || is_title_case(c.get());
    // Apostrophes and the like, and marks, stand inside of words.
    let is_ignored = |c: &&Char| {
        matches!(c.get(), '\'' | '.' | ':' | '^' | '`' | '·' | '’' | '\u{300}'..='\u{36f}' | '\u{ad}')
    };
    let before = text[..at].iter().rev().find(|c| !is_ignored(c));
    let after = text[at + 1..].iter().find(|c| !is_ignored(c));
    before.as_ref().is_some_and(is_cased) && !after.as_ref().is_some_and(is_cased)
}

/// Every first letter of a word in title case, the others in lower case.
pub(super) fn title(text: &[Char]) -> Vec<Char> {
    let mut is_inside = false;
    let mut titled = Vec::with_capacity(text.len());
    for (at, c) in text.iter().enumerate() {
        if is_inside {
            titled.extend(lower_at(text, at));
        } else {
            titled.extend(title_case(*c));
        }
        is_inside = c.get().is_uppercase() || c.get().is_lowercase() || is_title_case(c.get());
    }
    titled
}

pub(super) fn capitalize(text: &[Char]) -> Vec<Char> {
    let first = text.first().into_iter().flat_map(|c| title_case(*c));
    first.chain((1..text.len()).flat_map(|at| lower_at(text, at))).collect()
}

pub(super) fn swapcase(text: &[Char]) -> Vec<Char> {
    let swapped = |(at, c): (usize, &Char)| {
        if c.get().is_uppercase() {
            lower_at(text, at).collect::<Vec<_>>()
        } else if c.get().is_lowercase() {
            c.get().to_uppercase().map(|u| c.with(u)).collect()
        } else {
            vec![*c]
        }
    };
    text.iter().enumerate().flat_map(swapped).collect()
}

pub(super) fn casefold(text: &[Char]) -> Outcome<Vec<Char>> {
    if text.iter().any(|c| !c.get().is_ascii()) {
        return refuse!("`casefold` of characters beyond ASCII is not supported");
    }
    Ok(lower(text))
}

/// Whether there are letters with a case, all of them upper case or all of them lower case.
pub(super) fn is_all(text: &[Char], upper: bool) -> bool {
    let is_upper = |c: &Char| c.get().is_uppercase();
    let is_lower = |c: &Char| c.get().is_lowercase();
    let has_both = text.iter().any(|c| is_title_case(c.get()));
    let (has_upper, has_lower) = (text.iter().any(is_upper), text.iter().any(is_lower));
    !has_both && if upper { has_upper && !has_lower } else { has_lower && !has_upper }
}

/// The letters that are two in one, of which the first alone is upper case.
pub(super) fn is_title_case(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}')
        || matches!(c, '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
}

fn title_case(c: Char) -> Vec<Char> {
    let shifted = |by: i32| vec![c.with(char::from_u32((c.get() as i32 + by) as u32).unwrap_or(c.get()))];
    match c.get() {
        'Ǆ'..='ǆ' => vec![c.with('ǅ')],
        'Ǉ'..='ǉ' => vec![c.with('ǈ')],
        'Ǌ'..='ǌ' => vec![c.with('ǋ')],
        'Ǳ'..='ǳ' => vec![c.with('ǲ')],
        // Georgian has capitals for whole words only.
        '\u{10d0}'..='\u{10ff}' => vec![c],
        '\u{1f80}'..='\u{1f87}' | '\u{1f90}'..='\u{1f97}' | '\u{1fa0}'..='\u{1fa7}' => shifted(8),
        '\u{1fb3}' | '\u{1fc3}' | '\u{1ff3}' => shifted(9),
        other if is_title_case(other) => vec![c],
        // One character of two letters.
        'ß' | 'և' | '\u{fb00}'..='\u{fb06}' | '\u{fb13}'..='\u{fb17}' => {
            let mut letters = c.get().to_uppercase();
            let first = letters.next().into_iter();
            first.chain(letters.flat_map(char::to_lowercase)).map(|l| c.with(l)).collect()
        }
        other => other.to_uppercase().map(|u| c.with(u)).collect(),
    }
}

pub(super) fn is_letter(c: char) -> bool {
    character_class(c) == Letter
}

pub(super) fn is_letter_or_number(c: char) -> bool {
    matches!(character_class(c), Letter | Number)
}

/// Whether a character beyond ASCII could be what the test `name` looks for.
pub(super) fn may_be_number(c: char, name: &str) -> bool {
    // Among letters, some ideographs are numbers.
    character_class(c) == Number || (name == "isnumeric" && character_class(c) == Letter && c > '\u{2e7f}')
}
