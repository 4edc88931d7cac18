//! Every message of the control stream, as one table.

use std::time::Duration;

use bytes::BytesMut;

use crate::{
    instance::{InstanceId, ServiceName},
    key::Psk,
    proto::{
        message::{
            service::ServiceDeclaration,
            values::{Code, HealthWord, IdleLanes, Revision, Text},
        },
        stream::frame::StreamId,
        wire::{Fields, Slot, WireError, put_field, put_prefixed, put_varint},
    },
};

/// A control message is a row: number, name, and a row for each field. `T` is mandatory, `Option<T>` is not,
/// `Vec<T>` is a list of one or more.
macro_rules! messages {
    ($($(#[$doc:meta])* $number:literal => $message:ident {
        $($(#[$field_doc:meta])* $tag:literal => $field:ident: $type:ty,)*
    })*) => {
        /// A message of the control stream.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Message {
            $($(#[$doc])* $message { $($(#[$field_doc])* $field: $type,)* },)*
        }

        impl Message {
            pub(super) const fn number(&self) -> u64 {
                match self {
                    $(Self::$message { .. } => $number,)*
                }
            }

            pub(super) const fn name_of(number: u64) -> Option<&'static str> {
                match number {
                    $($number => Some(stringify!($message)),)*
                    _ => None,
                }
            }

            pub(super) fn encode_fields(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$message { $($field),* } => {
                        $(put_field(out, $tag, $field);)*
                    })*
                }
            }

            /// `None` for a number that is in no row.
            pub(super) fn decode_fields(number: u64, body: &[u8]) -> Result<Option<Self>, WireError> {
                match number {
                    $($number => {
                        $(let mut $field: Slot<$type> = Slot::new(stringify!($field));)*
                        for field in Fields::new(body) {
                            let (tag, value) = field?;
                            match tag {
                                $($tag => $field.read(value)?,)*
                                _ => {}
                            }
                        }
                        Ok(Some(Self::$message { $($field: $field.finish()?,)* }))
                    })*
                    _ => Ok(None),
                }
            }
        }
    };
}

messages! {
    /// Relay: the tunnel is up.
    1 => Welcome {
        /// The protocol version in use.
        1 => version: u32,
        /// How often each side sends a PING.
        2 => heartbeat: Duration,
        /// How long the relay keeps the ports of a client that is gone.
        3 => lease: Duration,
        /// The client's lasting key, in enrolment only.
        4 => psk: Option<Psk>,
        /// What the relay calls the client.
        5 => client: Text<63>,
        /// The relay's software and its version.
        6 => software: Text<64>,
    }
    /// Relay: there will be no tunnel.
    2 => Reject {
        /// Why.
        1 => code: Code,
        /// Why, for people.
        2 => text: Text<256>,
    }
    /// Client: this is what the instance is now, whole.
    3 => Declare {
        /// Which instance.
        1 => instance: InstanceId,
        /// Rises with every change of the instance.
        2 => revision: Revision,
        /// 1 to 64. Whether they contradict each other is the relay's to judge.
        3 => services: Vec<ServiceDeclaration>,
    }
    /// Client: the instance is gone.
    4 => Withdraw {
        /// Which instance.
        1 => instance: InstanceId,
        /// Rises with every change of the instance.
        2 => revision: Revision,
    }
    /// Relay: this revision's ports are open.
    5 => Bound {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was declared.
        2 => revision: Revision,
    }
    /// Relay: this revision does not come into force; the one before it stays.
    6 => Refused {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was declared.
        2 => revision: Revision,
        /// Why.
        3 => code: Code,
        /// Why, for people.
        4 => text: Text<256>,
        /// The port that it was about.
        5 => port: Option<u16>,
    }
    /// Either: are you there?
    7 => Ping {
        /// Comes back in the PONG.
        1 => number: u64,
        /// The highest number of the other side's PINGs so far: it is heard.
        2 => heard: Option<u64>,
    }
    /// Either: I am.
    8 => Pong {
        /// The PING's.
        1 => number: u64,
    }
    /// Either: no new streams and flows; what is open may end in peace.
    9 => Drain {
        /// After it the sender says GOODBYE.
        1 => grace: Duration,
    }
    /// Either: the tunnel ends.
    10 => Goodbye {
        /// Why.
        1 => code: Code,
        /// Why, for people.
        2 => text: Text<256>,
    }
    /// Relay: the number of lanes that should stand idle.
    11 => Lanes {
        /// How many.
        1 => idle: IdleLanes,
    }
    /// Relay: what was bound is not any more.
    12 => Unbound {
        /// Which instance.
        1 => instance: InstanceId,
        /// The revision that was bound.
        2 => revision: Revision,
        /// Why.
        3 => code: Code,
        /// Why, for people.
        4 => text: Text<256>,
    }
    /// Client: the lanes of these streams lead nowhere any more, of which the relay may not know.
    13 => Lost {
        /// Which.
        1 => streams: Vec<StreamId>,
    }
    /// Client: the health of a service that is bound. Only to a relay that can take it.
    14 => Health {
        /// Which instance.
        1 => instance: InstanceId,
        /// Its service.
        2 => service: ServiceName,
        /// The verdict, and what follows from it.
        3 => state: HealthWord,
        /// For how long it has been that.
        4 => age: Duration,
        /// Why it is unhealthy, for people.
        5 => reason: Option<Text<256>>,
        /// What the server calls itself.
        6 => name: Option<Text<256>>,
        /// Players who are there.
        7 => players: Option<u32>,
        /// Players who may be.
        8 => max: Option<u32>,
        /// Version of the game.
        9 => version: Option<Text<256>>,
        /// Map, level or world.
        10 => map: Option<Text<256>>,
    }
}

impl Message {
    /// The message's name, for logs: `Welcome`.
    pub fn name(&self) -> &'static str {
        Self::name_of(self.number()).unwrap_or_default()
    }

    /// Appends the message as it stands on the control stream.
    pub fn encode(&self, out: &mut BytesMut) {
        put_varint(out, self.number());
        put_prefixed(out, |out| self.encode_fields(out));
    }
}
