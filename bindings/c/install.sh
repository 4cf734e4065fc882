#!/usr/bin/env bash
# Installs the C library, its header, and what pkg-config and CMake want to know.
#
#     cargo build --release -p svdo-c
#     bindings/c/install.sh target/release PREFIX
set -euo pipefail
cd "$(dirname "$0")/../.."
[ $# -eq 2 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2; }
built=$1 prefix=$2
version=$(sed -nE '/^\[workspace.package\]/,/^$/s/^version = "(.*)"/\1/p' Cargo.toml)
mkdir -p "$prefix"/{include,lib/pkgconfig,lib/cmake/svdo}
prefix=$(cd "$prefix" && pwd)
install -m 644 include/svdo.h "$prefix/include"
install -m 644 "$built/libsvdo_c.a" "$prefix/lib"
# The name that programs are linked with ends in the version of the interface.
install -m 755 "$built/libsvdo_c.so" "$prefix/lib/libsvdo_c.so.0"
ln -sf libsvdo_c.so.0 "$prefix/lib/libsvdo_c.so"
cat >"$prefix/lib/pkgconfig/svdo.pc" <<PC
prefix=\${pcfiledir}/../..
Name: svdo
Description: Reads .svdo files and runs their networks sparse on a CPU
Version: $version
Cflags: -I\${prefix}/include
Libs: -L\${prefix}/lib -lsvdo_c
Libs.private: -lm -lpthread -ldl
PC
cat >"$prefix/lib/cmake/svdo/svdo-config.cmake" <<'CMAKE'
# find_package(svdo CONFIG), then target_link_libraries(program svdo::svdo)
get_filename_component(_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
if(NOT TARGET svdo::svdo)
  add_library(svdo::svdo SHARED IMPORTED)
  set_target_properties(svdo::svdo PROPERTIES
    IMPORTED_LOCATION "${_prefix}/lib/libsvdo_c.so.0"
    IMPORTED_SONAME "libsvdo_c.so.0"
    INTERFACE_INCLUDE_DIRECTORIES "${_prefix}/include")
endif()
unset(_prefix)
CMAKE
cat >"$prefix/lib/cmake/svdo/svdo-config-version.cmake" <<CMAKE
set(PACKAGE_VERSION "$version")
if(NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
CMAKE
