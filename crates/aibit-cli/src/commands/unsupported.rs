//! Options of other programs that aibit does not have, refused by name.

use crate::errors::Advised;

/// Accepted by the parser for a better message than "unexpected argument".
#[derive(clap::Args)]
pub(crate) struct UnsupportedArgs {
    #[arg(long, hide = true, value_name = "N", num_args = 0..=1, aliases = ["top-logprobs", "n-probs"])]
    logprobs: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "ID=BIAS", num_args = 0..=1, allow_hyphen_values = true)]
    logit_bias: Option<Vec<String>>,
    #[arg(long, hide = true, value_name = "GRAMMAR", num_args = 0..=1, alias = "grammar-file")]
    grammar: Option<Option<String>>,
    #[arg(long, hide = true, value_name = "SCHEMA", num_args = 0..=1, alias = "json-schema-file")]
    json_schema: Option<Option<String>>,
}

impl UnsupportedArgs {
    /// An error for the first of these options that was given.
    pub(crate) fn refuse(&self) -> Result<(), Advised> {
        let refused = [
            (self.logprobs.is_some(), "--logprobs", "token probabilities cannot be printed"),
            (self.logit_bias.is_some(), "--logit-bias", "logits of single tokens cannot be biased"),
            (self.grammar.is_some(), "--grammar", "text cannot be constrained by a grammar"),
            (self.json_schema.is_some(), "--json-schema", "text cannot be constrained by a schema"),
        ];
        match refused.into_iter().find(|(given, ..)| *given) {
            Some((_, option, why)) => {
                Err(Advised::new("unsupported", format!("{option} is not supported yet: {why}")))
            }
            None => Ok(()),
        }
    }
}
