//! By which way somebody is told: the first that works.
//!
//! # Rule
//! Push, which needs no address, `WhatsApp`, SMS, which need a telephone, e-mail. A channel that fails, or for which there is no
//! address, is passed over. What is written down of an address are its last four characters.

use std::{error::Error, fmt, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A way to tell somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// To the app.
    Push,
    /// By `WhatsApp`.
    Whatsapp,
    /// By SMS.
    Sms,
    /// By e-mail.
    Email,
}

impl Channel {
    /// All of them, in the order in which they are tried.
    pub const ALL: [Self; 4] = [Self::Push, Self::Whatsapp, Self::Sms, Self::Email];

    /// As in answers: `whatsapp`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Whatsapp => "whatsapp",
            Self::Sms => "sms",
            Self::Email => "email",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Channel {
    type Err = UnknownChannel;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|it| it.as_str() == text);
        known.ok_or_else(|| UnknownChannel { text: text.to_owned() })
    }
}

/// A channel that there is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownChannel {
    text: String,
}

impl fmt::Display for UnknownChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a channel; there are push, whatsapp, sms, email", self.text)
    }
}

impl Error for UnknownChannel {}

/// Where somebody can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Who has the app.
    pub user_id: String,
    /// The telephone.
    pub phone: Option<String>,
    /// The e-mail.
    pub email: Option<String>,
}

/// A channel, and the address on it, as it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The channel.
    pub channel: Channel,
    /// The address, but for its last four characters.
    pub recipient: String,
}

/// The first way that works; none if there is none.
pub fn way(reach: &Reach, failing: &[Channel]) -> Option<Way> {
    let works = Channel::ALL.into_iter().filter(|channel| !failing.contains(channel));
    let mut ways = works.filter_map(|channel| {
        let address = match channel {
            Channel::Push => Some(&reach.user_id),
            Channel::Whatsapp | Channel::Sms => reach.phone.as_ref(),
            Channel::Email => reach.email.as_ref(),
        };
        let recipient = if channel == Channel::Push { address?.clone() } else { masked(address?) };
        Some(Way { channel, recipient })
    });
    ways.next()
}

/// The last four characters; of what is short, none.
pub fn masked(text: &str) -> String {
    let characters = text.chars().collect::<Vec<_>>();
    let shown = if characters.len() >= 8 { 4 } else { 0 };
    let last = characters.iter().skip(characters.len() - shown);
    format!("****{}", last.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Expected<'a> = Option<(Channel, &'a str)>;

    #[test]
    fn r15_6_the_first_channel_that_works_and_has_an_address() {
        use Channel::{Email, Push, Sms, Whatsapp};
        let all = Reach {
            user_id: "asha".into(),
            phone: Some("+919820012345".into()),
            email: Some("asha@example.com".into()),
        };
        let no_phone = Reach { phone: None, ..all.clone() };
        let golden: [(&Reach, &[Channel], Expected<'_>); 7] = [
            (&all, &[], Some((Push, "asha"))),
            (&all, &[Push], Some((Whatsapp, "****2345"))),
            (&all, &[Push, Whatsapp], Some((Sms, "****2345"))),
            (&all, &[Whatsapp, Push, Sms], Some((Email, "****.com"))),
            (&all, &[Push, Whatsapp, Sms, Email], None),
            (&no_phone, &[Push], Some((Email, "****.com"))),
            (&no_phone, &[Push, Email], None),
        ];
        for (reach, failing, expected) in golden {
            let expected = expected.map(|(channel, it)| Way { channel, recipient: it.to_owned() });
            assert_eq!(way(reach, failing), expected, "{failing:?}");
        }
    }

    #[test]
    fn of_an_address_four_characters_are_written_down() {
        let golden =
            [("+919820012345", "****2345"), ("12345678", "****5678"), ("1234567", "****"), ("", "****")];
        for (address, expected) in golden {
            assert_eq!(masked(address), expected);
        }
    }

    #[test]
    fn channels_have_names() {
        for channel in Channel::ALL {
            assert_eq!(channel.to_string().parse(), Ok(channel));
            assert_eq!(serde_json::to_value(channel).unwrap(), channel.as_str());
        }
        assert!("fax".parse::<Channel>().is_err());
    }
}
