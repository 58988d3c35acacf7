#![doc = include_str!("../README.md")]
//! # In detail
//!
//! - [`ChatTemplate`]: the template in the files of a package. It turns messages into the text that the model was trained on.
//! - [`ChatText`]: a rendered conversation, with the byte ranges that come from the contents of messages.
//! - [`LocalTime`]: the time that a template may print; callers pass it in.

mod error;
mod files;
mod jinja;
mod template;
mod time;

pub use error::ChatError;
pub use files::ChatFiles;
pub use template::{ChatMessage, ChatTemplate, ChatText};
pub use time::LocalTime;
