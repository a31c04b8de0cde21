//go:build !linux

package embedded

import "syscall"

// processAttributes: the child runs unprivileged if we are root, and in a
// process group of its own so that a terminal's Ctrl-C reaches only us.
func processAttributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if uid, gid, ok := unprivileged(); ok {
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{}}
	}
	return attr
}
