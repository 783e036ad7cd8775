package link

import (
	"context"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Watch calls f each time a default route appears, until ctx ends.
func Watch(ctx context.Context, f func()) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_ROUTE})
	if err != nil {
		return fmt.Errorf("cannot watch for routes: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for {
		msgs, err := c.Receive()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			// Messages were lost: a default route may have appeared.
			f()
			continue
		}
		for _, m := range msgs {
			// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type (rtnetlink(7)).
			if m.Header.Type == unix.RTM_NEWROUTE && len(m.Data) >= 8 && m.Data[1] == 0 && m.Data[7] == unix.RTN_UNICAST {
				f()
				break
			}
		}
	}
}
