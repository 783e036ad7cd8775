package clipboard

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/xproto"
)

// look looks if programs of other users are connected, or may connect, where only they are kept apart.
func (b *board) look() {
	if b.looked = time.Now(); b.rules == nil || !b.rules.Alone() {
		return
	}
	hosts, err := xproto.ListHosts(b.c).Reply()
	if b.others = err != nil || hosts.Mode == xproto.AccessControlDisable || len(hosts.Hosts) == 0 && !cookie(); b.others {
		return
	}
	for _, h := range hosts.Hosts { // beside whoever can read the session's own cookie
		kind, name, _ := strings.Cut(string(h.Address), "\x00")
		if h.Family != xproto.FamilyServerInterpreted || kind != "localuser" || name != b.known.user(b.self) && name != fmt.Sprint("#", b.self) {
			b.others = true
			return
		}
	}
	r, err := res.QueryClientIds(b.c, 1, []res.ClientIdSpec{{Mask: res.ClientIdMaskLocalClientPID}}).Reply() // of all clients
	if b.others = err != nil; b.others {
		return
	}
	for _, id := range r.Ids {
		if len(id.Value) == 1 {
			if uid, ok := b.known.uid(id.Value[0]); ok && uid != b.self {
				b.others = true
			}
		}
	}
}

// cookie reports whether this user has anything that others need to connect. An X server that was started without lets everybody in, and
// does not list them.
func cookie() bool {
	path := os.Getenv("XAUTHORITY")
	if home, err := os.UserHomeDir(); path == "" && err == nil {
		path = filepath.Join(home, ".Xauthority")
	}
	st, err := os.Stat(path)
	return err == nil && st.Size() > 0
}
