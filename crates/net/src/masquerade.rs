//! Letting cells out: packets from a network's subnet that leave the host get the host's address.
//!
//! One nf_tables table for each network, named like its bridge, with one chain and one rule, written as netlink messages
//! in one transaction (`linux/netfilter/nf_tables.h`). The rule, in nft's own words:
//! `ip saddr SUBNET oifname != BRIDGE masquerade`.

use std::io;

use crate::error::{Error, Result};
use crate::lease::Subnet;
use crate::netlink::{Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, Netlink};

const NFNL_SUBSYS_NFTABLES: u16 = 10 << 8;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES;
const NFT_MSG_DELTABLE: u16 = NFNL_SUBSYS_NFTABLES | 2;
const NFT_MSG_NEWCHAIN: u16 = NFNL_SUBSYS_NFTABLES | 3;
const NFT_MSG_NEWRULE: u16 = NFNL_SUBSYS_NFTABLES | 6;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_UNSPEC: u8 = 0;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NF_INET_POST_ROUTING: u32 = 4;
const NF_IP_PRI_NAT_SRC: i32 = 100;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_DATA_VALUE: u16 = 1;
const NFT_REG_1: u32 = 1;
const NFT_CMP_EQ: u32 = 0;
const NFT_CMP_NEQ: u32 = 1;

/// The name of a table's only chain.
const CHAIN: &str = "postrouting";

/// `struct nfgenmsg`: family, version, resource id (big endian).
const fn family(family: u8) -> [u8; 4] {
    [family, 0, 0, 0]
}

/// Lets the host hand packets on, which masquerading needs. Left on when the network goes: others may rely on it by then.
pub(crate) fn forward_packets() -> Result<()> {
    let path = std::path::Path::new("/proc/sys/net/ipv4/ip_forward");
    if std::fs::read_to_string(path).is_ok_and(|it| it.trim() == "1") {
        return Ok(());
    }
    std::fs::write(path, "1").map_err(|e| Error::at("writing", path, e))
}

/// Installs the rule for a network, in place of one that a crash left.
pub(crate) fn install(subnet: &Subnet) -> Result<()> {
    let _ = remove(subnet);
    let table = subnet.bridge.as_str();
    let messages = [
        Message::new(NFT_MSG_NEWTABLE, NLM_F_CREATE, &family(NFPROTO_IPV4)).text(NFTA_TABLE_NAME, table),
        Message::new(NFT_MSG_NEWCHAIN, NLM_F_CREATE, &family(NFPROTO_IPV4))
            .text(NFTA_CHAIN_TABLE, table)
            .text(NFTA_CHAIN_NAME, CHAIN)
            .nested(NFTA_CHAIN_HOOK, &[], |hook| {
                hook.attribute(NFTA_HOOK_HOOKNUM, &NF_INET_POST_ROUTING.to_be_bytes())
                    .attribute(NFTA_HOOK_PRIORITY, &NF_IP_PRI_NAT_SRC.to_be_bytes())
            })
            .text(NFTA_CHAIN_TYPE, "nat"),
        Message::new(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, &family(NFPROTO_IPV4))
            .text(NFTA_RULE_TABLE, table)
            .text(NFTA_RULE_CHAIN, CHAIN)
            .nested(NFTA_RULE_EXPRESSIONS, &[], |list| expressions(list, subnet)),
    ];
    transact(messages).map_err(|e| Error::kernel(format!("installing packet rules for {table}"), e))
}

/// Removes a network's rule.
pub(crate) fn remove(subnet: &Subnet) -> Result<()> {
    let message = Message::new(NFT_MSG_DELTABLE, 0, &family(NFPROTO_IPV4)).text(NFTA_TABLE_NAME, &subnet.bridge);
    transact([message]).map_err(|e| Error::kernel(format!("removing packet rules of {}", subnet.bridge), e))
}

fn expressions(list: Message, subnet: &Subnet) -> Message {
    const NFTA_PAYLOAD_DREG: u16 = 1;
    const NFTA_PAYLOAD_BASE: u16 = 2;
    const NFTA_PAYLOAD_OFFSET: u16 = 3;
    const NFTA_PAYLOAD_LEN: u16 = 4;
    const NETWORK_HEADER: u32 = 1;
    const SOURCE_ADDRESS: u32 = 12;
    const NFTA_BITWISE_SREG: u16 = 1;
    const NFTA_BITWISE_DREG: u16 = 2;
    const NFTA_BITWISE_LEN: u16 = 3;
    const NFTA_BITWISE_MASK: u16 = 4;
    const NFTA_BITWISE_XOR: u16 = 5;
    const NFTA_META_DREG: u16 = 1;
    const NFTA_META_KEY: u16 = 2;
    const NFT_META_OIFNAME: u32 = 7;
    let mut bridge = [0; 16];
    bridge[..subnet.bridge.len()].copy_from_slice(subnet.bridge.as_bytes());
    let list = expression(list, "payload", |it| {
        it.attribute(NFTA_PAYLOAD_DREG, &NFT_REG_1.to_be_bytes())
            .attribute(NFTA_PAYLOAD_BASE, &NETWORK_HEADER.to_be_bytes())
            .attribute(NFTA_PAYLOAD_OFFSET, &SOURCE_ADDRESS.to_be_bytes())
            .attribute(NFTA_PAYLOAD_LEN, &4u32.to_be_bytes())
    });
    let list = expression(list, "bitwise", |it| {
        it.attribute(NFTA_BITWISE_SREG, &NFT_REG_1.to_be_bytes())
            .attribute(NFTA_BITWISE_DREG, &NFT_REG_1.to_be_bytes())
            .attribute(NFTA_BITWISE_LEN, &4u32.to_be_bytes())
            .nested(NFTA_BITWISE_MASK, &[], |it| it.attribute(NFTA_DATA_VALUE, &subnet.mask().to_be_bytes()))
            .nested(NFTA_BITWISE_XOR, &[], |it| it.attribute(NFTA_DATA_VALUE, &[0; 4]))
    });
    let list = compare(list, NFT_CMP_EQ, &subnet.base.octets());
    let list = expression(list, "meta", |it| {
        it.attribute(NFTA_META_DREG, &NFT_REG_1.to_be_bytes()).attribute(NFTA_META_KEY, &NFT_META_OIFNAME.to_be_bytes())
    });
    let list = compare(list, NFT_CMP_NEQ, &bridge);
    expression(list, "masq", |it| it)
}

fn compare(list: Message, operator: u32, value: &[u8]) -> Message {
    const NFTA_CMP_SREG: u16 = 1;
    const NFTA_CMP_OP: u16 = 2;
    const NFTA_CMP_DATA: u16 = 3;
    expression(list, "cmp", |it| {
        it.attribute(NFTA_CMP_SREG, &NFT_REG_1.to_be_bytes()).attribute(NFTA_CMP_OP, &operator.to_be_bytes()).nested(
            NFTA_CMP_DATA,
            &[],
            |it| it.attribute(NFTA_DATA_VALUE, value),
        )
    })
}

fn expression(list: Message, name: &str, fill: impl FnOnce(Message) -> Message) -> Message {
    list.nested(NFTA_LIST_ELEM, &[], |element| element.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, &[], fill))
}

/// Sends messages as one transaction: all take effect or none.
fn transact(messages: impl IntoIterator<Item = Message>) -> io::Result<()> {
    let mut netlink = Netlink::open_filter()?;
    // struct nfgenmsg whose resource id names the subsystem, big endian.
    let mut batch = [NFPROTO_UNSPEC, 0, 0, 0];
    batch[2..].copy_from_slice(&10u16.to_be_bytes());
    let mut bytes = Message::new(NFNL_MSG_BATCH_BEGIN, 0, &batch).finish(netlink.next_sequence());
    let mut messages = messages.into_iter().peekable();
    let mut last = 0;
    while let Some(message) = messages.next() {
        last = netlink.next_sequence();
        let message = message.finish(last);
        // Only the last is acknowledged: a failure of an earlier one is reported in its stead.
        let message = if messages.peek().is_none() { acknowledged(message) } else { message };
        bytes.extend_from_slice(&message);
    }
    bytes.extend_from_slice(&Message::new(NFNL_MSG_BATCH_END, 0, &batch).finish(netlink.next_sequence()));
    netlink.send(&bytes)?;
    netlink.receive_until(last).map(drop)
}

/// Sets the flag that asks for an acknowledgement, in the header's sixth and seventh bytes.
fn acknowledged(mut message: Vec<u8>) -> Vec<u8> {
    let flags = u16::from_ne_bytes([message[6], message[7]]) | NLM_F_ACK;
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    message
}
